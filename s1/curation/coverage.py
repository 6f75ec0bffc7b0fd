"""Cover all rows with few: k-means, k-center, facility location, near-duplicates.

Rows are assumed to lie in an order that is theirs alone (see `diversity`): ties go to the earlier row. Nothing here
ever holds a table of all pairs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
BLOCK_ROWS = 4096
# Facility location counts what a pick does for this many rows, or for this many times its size; of more rows, a sample.
SAMPLE_ROWS, SAMPLE_ROWS_PER_PICK = 8192, 12


@dataclass(frozen=True)
class Clusters:
    """Result of k-means."""

    centers: Matrix  # (K, D)
    labels: NDArray[np.int64]  # (N,)
    distances: NDArray[np.float32]  # (N,) squared, to the row's own centre


@contextmanager
def one_thread() -> Generator[None]:
    """For loops over small products: threads that wait for each other make them many times slower on a busy machine."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def squared_norms(points: Matrix) -> NDArray[np.float32]:
    return np.einsum("nd,nd->n", points, points)


def _unit(points: Matrix) -> Matrix:
    unit: Matrix = (points / np.sqrt(np.maximum(squared_norms(points), 1e-12))[:, None]).astype(np.float32, copy=False)
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


@one_thread()
def k_center(points: Matrix, size: int, first: int, quality: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """Greedy k-center (farthest first) from row `first`; with `quality`, distances count times quality.

    Only a front of rows, those that are farthest, is kept up to date; a row outside it can be nearer than is known,
    never farther. So a pick from the front that is at least as far as all outside it is the true one; when there is
    none, every row is brought up to date with one matrix product.
    """
    weight = np.ones(len(points), dtype=np.float32) if quality is None else quality.astype(np.float32)
    norms = squared_norms(points)
    gap = np.full(len(points), np.inf, dtype=np.float32)  # squared distance to the nearest pick, or an upper bound
    picks, fresh = [first], [first]
    chosen = np.zeros(len(points), dtype=bool)
    chosen[first] = True
    while len(picks) < size:
        _bring_up_to_date(points, norms, gap, fresh)
        score = np.where(chosen, -1.0, np.sqrt(gap) * weight)
        front, outside = _front(score)
        near, front_gap, front_norms, front_weight = points[front], gap[front], norms[front], weight[front]
        front_score = score[front]
        fresh = []
        while len(picks) < size:
            best = int(front_score.argmax())
            # An equal score outside may belong to an earlier row.
            if fresh and front_score[best] <= outside:
                break
            picks.append(int(front[best]))
            fresh.append(picks[-1])
            chosen[picks[-1]] = True
            away = front_norms - 2.0 * (near @ near[best]) + front_norms[best]
            front_gap = np.minimum(front_gap, np.maximum(away, 0.0))
            front_score = np.where(chosen[front], -1.0, np.sqrt(front_gap) * front_weight)
    return np.array(picks, dtype=np.int64)


def _bring_up_to_date(points: Matrix, norms: NDArray[np.float32], gap: NDArray[np.float32], fresh: list[int]) -> None:
    centers, center_norms = points[fresh], norms[fresh]
    for start in range(0, len(points), BLOCK_ROWS):
        stop = start + BLOCK_ROWS
        table = center_norms - 2.0 * (points[start:stop] @ centers.T)  # (B, F)
        away = np.maximum(table.min(axis=1) + norms[start:stop], 0.0)
        gap[start:stop] = np.minimum(gap[start:stop], away)


def _front(score: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
    """The rows with the largest scores, in order of rows, and the largest score of all others."""
    width = min(len(score), BLOCK_ROWS)
    if width == len(score):
        return np.arange(len(score)), -1.0
    cut = np.argpartition(-score, width)
    return np.sort(cut[:width]), float(score[cut[width]])


def facility_location(points: Matrix, size: int, quality: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """Picks that maximise the sum over rows of the cosine similarity to the nearest pick (0 at least), in greedy order.

    Lazy greedy over all rows as candidates: gains only shrink from pick to pick, so a candidate is looked at again only
    when its last known gain is the largest. Where there are many rows, gains are sums over a sample (the first rows:
    their order is random); a row of it does not count for itself, or it would be picked for that. Then every pick moves
    to the row that serves its neighbourhood best. With `quality`, the gain of a candidate counts times its quality.
    """
    unit = _unit(points)
    num_rows = max(SAMPLE_ROWS, SAMPLE_ROWS_PER_PICK * size)
    weight = np.ones(len(unit)) if quality is None else quality
    if len(unit) <= num_rows:
        return _lazy_greedy(_Gains(unit, unit), weight, size)
    sample = unit[:num_rows]
    picks = _refine(unit, _lazy_greedy(_Gains(unit, sample, count_itself=False), weight, size), weight)
    return picks[_lazy_greedy(_Gains(unit[picks], sample), weight[picks], size)]


class _Gains:
    """What each candidate would add to the similarity of the rows to their nearest pick."""

    def __init__(self, candidates: Matrix, rows: Matrix, count_itself: bool = True) -> None:
        self.candidates, self.rows = candidates, rows  # (N, D), (R, D)
        self.count_itself = count_itself  # if not, the rows are the first candidates
        self.best = np.zeros(len(rows), dtype=np.float32)  # similarity to the nearest pick

    def of(self, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Gains (C,) of the candidates."""
        growth = self._similarity(candidates)  # (C, R)
        growth -= self.best
        np.maximum(growth, 0.0, out=growth)
        return growth.sum(axis=1, dtype=np.float64)

    def pick(self, candidate: int) -> None:
        self.best = np.maximum(self.best, self._similarity(np.array([candidate]))[0])

    def _similarity(self, candidates: NDArray[np.int64]) -> Matrix:
        table: Matrix = self.candidates[candidates] @ self.rows.T
        if not self.count_itself:
            inside = np.flatnonzero(candidates < len(self.rows))
            table[inside, candidates[inside]] = 0.0
        return table


def _lazy_greedy(gains: _Gains, weight: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Indices of `size` candidates in greedy order."""
    count = len(gains.candidates)
    bound = np.concatenate([gains.of(np.arange(at, min(at + 256, count))) for at in range(0, count, 256)]) * weight
    picks: list[int] = []
    with one_thread():
        while len(picks) < size:
            fresh = np.isneginf(bound)  # those that were picked
            batch = 16
            while not fresh[top := int(bound.argmax())]:
                again = np.argpartition(-bound, min(batch, count - 1))[:batch]
                again = again[~fresh[again]] if not fresh[again].all() else np.array([top])
                bound[again] = gains.of(again) * weight[again]
                fresh[again] = True
                batch = min(2 * batch, 256)
            picks.append(top)
            bound[top] = -np.inf
            gains.pick(top)
    return np.array(picks, dtype=np.int64)


def _refine(unit: Matrix, picks: NDArray[np.int64], weight: NDArray[np.float64], rounds: int = 4) -> NDArray[np.int64]:
    """Move every pick to the row of its neighbourhood that the neighbourhood is most similar to."""
    for _ in range(rounds):
        labels, _ = nearest(unit, unit[picks])
        labels[picks] = np.arange(len(picks))
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(len(picks) + 1))
        moved = picks.copy()
        with one_thread():
            for at in range(len(picks)):
                members = order[bounds[at] : bounds[at + 1]]
                moved[at] = members[_medoid(unit[members], weight[members])]
        if (moved == picks).all():
            break
        picks = moved
    return picks


def _medoid(unit: Matrix, weight: NDArray[np.float64]) -> int:
    if len(unit) <= BLOCK_ROWS:
        served = np.maximum(unit @ unit.T, 0.0).sum(axis=1, dtype=np.float64)
    else:
        served = (unit @ unit.sum(axis=0)).astype(np.float64)
    return int((served * weight).argmax())


def near_duplicates(points: Matrix, threshold: float) -> NDArray[np.bool_]:
    """Rows (N,) whose cosine similarity to an earlier row that stays is at least `threshold`."""
    unit = _unit(points)
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
