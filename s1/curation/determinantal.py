"""Greedy MAP of a determinantal point process (Chen, Zhang and Zhou 2018) with an RBF kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s1.curation.coverage import Matrix, one_thread, squared_norms
from s1.curation.quota import Room, walk

SAMPLE_ROWS = 1024
MIN_VARIANCE = 1e-6  # below it a row adds no volume that float32 can tell from none


@one_thread()
def greedy_map(
    points: Matrix, size: int, quality: NDArray[np.float64] | None = None, room: Room | None = None
) -> NDArray[np.int64]:
    """Indices of `size` rows, each the one that makes the volume of the picks grow most.

    Kernel: quality_i * quality_j * exp(-|x_i - x_j|^2 / (2 s^2)), s^2 the median squared distance. When no row adds
    volume any more (there are only copies left), the rest follows in the order of what is left of their variance. With
    `room`, no group gives more rows than it has room for.
    """
    weight = np.ones(len(points), dtype=np.float32) if quality is None else quality.astype(np.float32)
    norms, scale = squared_norms(points), _bandwidth(points)
    rows = np.empty((size, len(points)), dtype=np.float32)  # Cholesky rows, one for each pick
    variance = weight**2
    picks: list[int] = []
    taken = np.zeros(len(points), dtype=bool)
    for at in range(size):
        if taken.all():
            break
        best = int(np.where(taken, -np.inf, variance).argmax())
        if variance[best] < MIN_VARIANCE * weight[best] ** 2 or variance[best] <= 0:
            rest = np.argsort(-np.where(taken, -np.inf, variance), kind="stable")
            rest = rest[~taken[rest]].astype(np.int64)
            return np.concatenate([np.array(picks, dtype=np.int64), walk(rest, size - at, room)])
        picks.append(best)
        taken[best] = True
        if room is not None:
            taken[room.take(best)] = True
        distances = np.maximum(norms - 2.0 * (points @ points[best]) + norms[best], 0.0)
        kernel = weight * weight[best] * np.exp(-distances / scale)
        row = (kernel - rows[:at, best] @ rows[:at]) / np.sqrt(variance[best])
        rows[at] = row
        variance = np.maximum(variance - row**2, 0.0)
    return np.array(picks, dtype=np.int64)


def _bandwidth(points: Matrix) -> float:
    """Twice the median squared distance between different rows of a sample (the first rows: their order is random)."""
    few = points[:SAMPLE_ROWS]
    norms = squared_norms(few)
    distances = norms[:, None] + norms[None, :] - 2.0 * (few @ few.T)
    distances = distances[distances > 1e-9]
    return 2.0 * float(np.median(distances)) if distances.size else 1.0
