"""Greedy k-center, farthest first (Gonzalez 1985), over one shard of rows or many: the picks are the same.

Every row has a rank, its place in an order that belongs to the rows alone; ties go to the lowest rank. Distances are
computed in float64 and rounded to a grid that is far coarser than the error of that and far finer than float32 could
tell: so neither the shapes of matrix products nor the cut into shards decides between two rows.

Only fronts of rows, those that are farthest, are kept up to date. A row outside the fronts can be nearer than is known,
never farther: a pick from a front that is farther than all outside is the true one. When there is none, every shard
brings its rows up to date with one matrix product and sends a new front. 1,000 picks of 59,000 rows take a few dozen
rounds, so that shards on other machines cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s1.curation.coverage import BLOCK_ROWS, Matrix, one_thread

FRONT_ROWS = 4096
GRID_BITS = 30
_CLOSED = -1.0  # score of a row that cannot be picked


@dataclass(frozen=True)
class Picked:
    """What was picked since a shard was asked the last time."""

    points: Matrix  # (P, D)
    ranks: NDArray[np.int64]  # (P,)
    closed: frozenset[int]  # groups that are full


@dataclass(frozen=True)
class Front:
    """The rows of a shard that are farthest from all picks, in order of rank."""

    ranks: NDArray[np.int64]  # (F,)
    points: Matrix  # (F, D)
    gap: NDArray[np.float64]  # (F,) squared distance to the nearest pick
    weight: NDArray[np.float64]  # (F,)
    groups: NDArray[np.int64]  # (F,)
    scores: NDArray[np.float64]  # (F,)
    outside: float  # the largest score of all other rows of the shard


class Shard:
    """Some of the rows, and how far each is from the picks."""

    def __init__(
        self,
        points: Matrix,
        ranks: NDArray[np.int64],
        weight: NDArray[np.float64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        order = np.argsort(ranks)
        ordered = bool((order == np.arange(len(order))).all())
        self.points = points if ordered else points[order]  # (N, D)
        self.ranks = ranks[order]
        self.weight = np.ones(len(points)) if weight is None else weight[order]
        self.groups = np.zeros(len(points), dtype=np.int64) if groups is None else groups[order]
        self._norms = _norms(self.points)
        self._gap = np.full(len(points), np.inf)
        self._open = np.ones(len(points), dtype=bool)

    def largest_norm(self) -> float:
        """Largest squared length of a row; 0 without rows."""
        return float(self._norms.max(initial=0.0))

    def point(self, rank: int) -> tuple[Matrix, int] | None:
        """The row of that rank, (1, D), and its group; None when another shard has it."""
        at = int(np.searchsorted(self.ranks, rank))
        if at == len(self.ranks) or self.ranks[at] != rank:
            return None
        return self.points[at : at + 1], int(self.groups[at])

    def front(self, picked: Picked, grid: float, num_rows: int = FRONT_ROWS) -> Front:
        """Bring all rows up to date with what was picked; the `num_rows` farthest ones."""
        with one_thread():
            self._bring_up_to_date(picked.points.astype(np.float64), grid)
        self._open[np.flatnonzero(np.isin(self.ranks, picked.ranks))] = False
        if picked.closed:
            self._open &= ~np.isin(self.groups, list(picked.closed))
        scores = np.where(self._open, np.sqrt(self._gap) * self.weight, _CLOSED)
        rows, outside = _farthest(scores, num_rows)
        return Front(
            self.ranks[rows],
            self.points[rows],
            self._gap[rows],
            self.weight[rows],
            self.groups[rows],
            scores[rows],
            outside,
        )

    def _bring_up_to_date(self, centers: NDArray[np.float64], grid: float) -> None:
        for start in range(0, len(self.points), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            away = _distances(self.points[block], self._norms[block], centers, grid).min(axis=1)
            self._gap[block] = np.minimum(self._gap[block], away)


Ask = Callable[[Picked], Sequence[Front]]


def k_center(
    points: Matrix,
    size: int,
    first: int,
    quality: NDArray[np.float64] | None = None,
    groups: NDArray[np.int64] | None = None,
    most: dict[int, int] | None = None,
) -> NDArray[np.int64]:
    """Rows in the order of their picks, from row `first`; with `quality`, distances count times quality.

    Of group g at most `most[g]` rows are picked.
    """
    shard = Shard(points, np.arange(len(points)), quality, groups)
    grid = grid_of(shard.largest_norm())
    found = shard.point(first)
    assert found is not None
    return greedy(lambda picked: [shard.front(picked, grid)], first, *found, size, grid, most)


def grid_of(largest_norm: float) -> float:
    """The step that squared distances are rounded to, of rows whose squared length is at most `largest_norm`."""
    return 2.0 ** (np.ceil(np.log2(max(largest_norm, 1e-30))) - GRID_BITS)


def greedy(
    ask: Ask, first: int, point: Matrix, group: int, size: int, grid: float, most: dict[int, int] | None = None
) -> NDArray[np.int64]:
    """Ranks in the order of their picks; `ask` tells every shard what was picked and gives their fronts."""
    left = dict(most or {})
    picks, fresh, fresh_points = [first], [first], [point]
    closed = _count(left, group)
    while len(picks) < size:
        picked = Picked(np.concatenate(fresh_points), np.array(fresh, dtype=np.int64), closed)
        front = _Merged(ask(picked), grid)
        if not front.has_open_rows():
            break
        fresh, fresh_points, closed = [], [], frozenset()
        while len(picks) < size:
            best = front.best()
            # A row outside that scores the same may have a lower rank.
            if best is None or (fresh and front.scores[best] <= front.outside):
                break
            picks.append(int(front.ranks[best]))
            fresh.append(picks[-1])
            fresh_points.append(front.points[best : best + 1])
            full = _count(left, int(front.groups[best]))
            closed |= full
            front.pick(best, full)
    return np.array(picks, dtype=np.int64)


def _count(left: dict[int, int], group: int) -> frozenset[int]:
    """Count a pick of `group`; the group when it is full now."""
    if group not in left:
        return frozenset()
    left[group] -= 1
    return frozenset([group]) if left[group] <= 0 else frozenset()


class _Merged:
    """The fronts of all shards as one."""

    def __init__(self, fronts: Sequence[Front], grid: float) -> None:
        ranks = np.concatenate([front.ranks for front in fronts])
        order = np.argsort(ranks)
        self.ranks = ranks[order]
        self.points = np.concatenate([front.points for front in fronts])[order]
        self.groups = np.concatenate([front.groups for front in fronts])[order]
        self.scores = np.concatenate([front.scores for front in fronts])[order]
        self.outside = max(front.outside for front in fronts)
        self._gap = np.concatenate([front.gap for front in fronts])[order]
        self._weight = np.concatenate([front.weight for front in fronts])[order]
        self._wide = self.points.astype(np.float64)
        self._norms = _norms(self.points)
        self._grid = grid

    def has_open_rows(self) -> bool:
        return bool(self.scores.max(initial=_CLOSED) > _CLOSED)

    def best(self) -> int | None:
        """The farthest row, of equals the one with the lowest rank."""
        best = int(self.scores.argmax())
        return best if self.scores[best] > _CLOSED else None

    def pick(self, best: int, full: frozenset[int]) -> None:
        with one_thread():
            away = _rounded(self._norms - 2.0 * (self._wide @ self._wide[best]) + self._norms[best], self._grid)
        self._gap = np.minimum(self._gap, away)
        is_open = self.scores > _CLOSED
        is_open[best] = False
        if full:
            is_open &= ~np.isin(self.groups, list(full))
        self.scores = np.where(is_open, np.sqrt(self._gap) * self._weight, _CLOSED)


def _norms(points: Matrix) -> NDArray[np.float64]:
    """Squared lengths in float64, a block at a time."""
    blocks = (points[at : at + BLOCK_ROWS].astype(np.float64) for at in range(0, len(points), BLOCK_ROWS))
    return np.concatenate([np.zeros(0), *(np.einsum("nd,nd->n", block, block) for block in blocks)])


def _distances(
    points: Matrix, norms: NDArray[np.float64], centers: NDArray[np.float64], grid: float
) -> NDArray[np.float64]:
    """Squared distances (N, P)."""
    table = points.astype(np.float64) @ centers.T
    return _rounded(norms[:, None] - 2.0 * table + np.einsum("nd,nd->n", centers, centers), grid)


def _rounded(distances: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    return np.maximum(np.round(distances / grid), 0.0) * grid


def _farthest(scores: NDArray[np.float64], num_rows: int) -> tuple[NDArray[np.int64], float]:
    """The rows with the largest scores, of equals the first, in order; and the largest score of all others."""
    if num_rows >= len(scores):
        return np.arange(len(scores)), _CLOSED
    cut = float(-np.partition(-scores, num_rows)[num_rows])  # the largest score that may have to stay outside
    above = np.flatnonzero(scores > cut)
    equal = np.flatnonzero(scores == cut)[: num_rows - len(above)]
    return np.sort(np.concatenate([above, equal])), cut
