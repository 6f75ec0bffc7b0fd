"""What is near to what: k-means, near-duplicates.

Rows are assumed to lie in an order that is theirs alone (see `diversity`): ties go to the earlier row. Nothing here
ever holds a table of all pairs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Matrix = NDArray[np.float32]
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Clusters:
    """Result of k-means."""

    centers: Matrix  # (K, D)
    labels: NDArray[np.int64]  # (N,)
    distances: NDArray[np.float32]  # (N,) squared, to the row's own centre


@contextmanager
def one_thread() -> Generator[None]:
    """For loops over small products: threads that wait for each other make them many times slower on a busy machine."""
    with _thread_pools().limit(limits=1, user_api="blas"):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    """Those of the libraries that are loaded; looking for them takes longer than many a loop, so it is done once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def squared_norms(points: Matrix) -> NDArray[np.float32]:
    return np.einsum("nd,nd->n", points, points)


def unit_length(points: Matrix) -> Matrix:
    """The rows, each divided by its length; the very same array when they are of unit length already."""
    lengths = np.sqrt(np.maximum(squared_norms(points), 1e-12))
    if np.abs(lengths - 1.0).max(initial=0.0) < 1e-5:
        return points
    unit: Matrix = (points / lengths[:, None]).astype(np.float32, copy=False)
    return unit


def nearest(points: Matrix, centers: Matrix) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Index of the nearest centre of every row and the squared distance to it, both (N,)."""
    labels = np.empty(len(points), dtype=np.int64)
    distances = np.empty(len(points), dtype=np.float32)
    center_norms = squared_norms(centers)
    for start in range(0, len(points), BLOCK_ROWS):
        block = points[start : start + BLOCK_ROWS]
        table = center_norms - 2.0 * (block @ centers.T)  # (B, K) without the row's own norm
        best = table.argmin(axis=1)
        labels[start : start + len(block)] = best
        distances[start : start + len(block)] = table[np.arange(len(block)), best] + squared_norms(block)
    return labels, np.maximum(distances, 0.0)


def k_means(points: Matrix, count: int, rng: np.random.Generator, rounds: int = 10, sample: int = 65_536) -> Clusters:
    """Lloyd's algorithm from a k-means++ start, on at most `sample` rows; then every row is assigned."""
    few = points if len(points) <= sample else points[np.sort(rng.choice(len(points), sample, replace=False))]
    centers = few[_spread(few, count, rng)].copy()
    for _ in range(rounds):
        labels, distances = nearest(few, centers)
        sizes = np.bincount(labels, minlength=count)
        order = np.argsort(labels, kind="stable")
        filled = np.flatnonzero(sizes)
        starts = (np.cumsum(sizes) - sizes)[filled]
        centers[filled] = np.add.reduceat(few[order], starts, axis=0) / sizes[filled, None]
        empty = np.flatnonzero(sizes == 0)
        centers[empty] = few[np.argsort(-distances, kind="stable")[: len(empty)]]
    return Clusters(centers, *nearest(points, centers))


@one_thread()
def _spread(points: Matrix, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a k-means++ start: each is drawn with weight of its squared distance to those before it."""
    picks = [int(rng.integers(len(points)))]
    gap = _squared_distances(points, points[picks[0]])
    while len(picks) < count:
        total = np.cumsum(gap, dtype=np.float64)
        if total[-1] <= 0:
            picks.append(int(rng.integers(len(points))))
            continue
        picks.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(points) - 1))
        gap = np.minimum(gap, _squared_distances(points, points[picks[-1]]))
    return np.array(picks, dtype=np.int64)


def _squared_distances(points: Matrix, point: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(squared_norms(points) - 2.0 * (points @ point) + point @ point, 0.0)


def near_duplicates(points: Matrix, threshold: float) -> NDArray[np.bool_]:
    """Rows (N,) whose cosine similarity to an earlier row that stays is at least `threshold`."""
    unit = unit_length(points)
    dropped = np.zeros(len(unit), dtype=bool)
    for start in range(0, len(unit), BLOCK_ROWS):
        block = unit[start : start + BLOCK_ROWS]
        for other in range(0, start, BLOCK_ROWS):
            stays = ~dropped[other : other + BLOCK_ROWS]
            similar = (block @ unit[other : other + BLOCK_ROWS][stays].T >= threshold).any(axis=1)
            dropped[start : start + len(block)] |= similar
        within = np.triu(block @ block.T >= threshold, 1)  # (B, B): earlier row, later row
        for row in np.flatnonzero(within.any(axis=1)):
            if not dropped[start + row]:
                dropped[start : start + len(block)] |= within[row]
    return dropped
