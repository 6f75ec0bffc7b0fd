"""Facility location: the picks to which all rows together are most similar (cosine), by lazy greedy.

Gains only shrink from pick to pick, so a candidate is looked at again only when its last known gain is the largest
(Minoux 1978). Nothing here ever holds a table of all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s1.curation.coverage import BLOCK_ROWS, Matrix, nearest, one_thread, unit_length
from s1.curation.quota import Room

# Gains are sums over this many rows, or over this many times the size; of more rows, over a sample.
SAMPLE_ROWS, SAMPLE_ROWS_PER_PICK = 8192, 8
# Of more rows than this, or than so many times the size, only a sample are candidates before the picks move.
CANDIDATE_ROWS, CANDIDATE_ROWS_PER_PICK = 65_536, 64
HISTORY_BYTES = 128 << 20
_LOOK_AGAIN = 256  # candidates that are looked at together, at most
_OF_ONE_AGE = 64
_REFINE_ROUNDS = 4
_NEIGHBOURS = 512  # rows of a neighbourhood that its rows are compared with, at most


@dataclass(frozen=True)
class Sample:
    """The rows that gains are sums over, of unit length, and where they stand among the candidates."""

    rows: Matrix  # (R, D)
    own: NDArray[np.int64]  # (N,) place of every candidate in `rows`, -1 for none; a row does not count for itself


def num_sample_rows(num_rows: int, size: int) -> int:
    """Rows that gains are sums over when `size` of `num_rows` are picked."""
    return min(num_rows, max(SAMPLE_ROWS, SAMPLE_ROWS_PER_PICK * size))


def facility_location(
    points: Matrix, size: int, quality: NDArray[np.float64] | None = None, room: Room | None = None
) -> NDArray[np.int64]:
    """Picks that maximise the sum over rows of the cosine similarity to the nearest pick (0 at least), in greedy order.

    Where there are many rows, gains are sums over a sample (the first rows: their order is random); where there are
    very many, the candidates are a larger sample; then every pick moves to the row that serves its neighbourhood best,
    of all rows. With `quality`, the gain of a candidate counts times its quality; with `room`, no group gives more rows
    than it has room for.
    """
    unit = unit_length(points)
    num_rows = num_sample_rows(len(unit), size)
    weight = np.ones(len(unit)) if quality is None else quality
    if num_rows == len(unit):
        return lazy_greedy(unit, everything(unit), weight, size, room)
    candidates = unit[: num_candidates(len(unit), size)]
    own = np.where(np.arange(len(candidates)) < num_rows, np.arange(len(candidates)), -1)
    sample = Sample(unit[:num_rows], own)
    first = lazy_greedy(candidates, sample, weight[: len(candidates)], size, room)
    picks = _refine(unit, first, weight, None if room is None else room.groups)
    order = lazy_greedy(unit[picks], Sample(sample.rows, np.full(len(picks), -1)), weight[picks], size)
    return picks[order]


def num_candidates(num_rows: int, size: int) -> int:
    """Rows that can be picked before the picks move."""
    return min(num_rows, max(CANDIDATE_ROWS, CANDIDATE_ROWS_PER_PICK * size))


def everything(unit: Matrix) -> Sample:
    """All rows: each counts for itself too."""
    return Sample(unit, np.full(len(unit), -1, dtype=np.int64))


def value(unit: Matrix, rows: Matrix) -> float:
    """Mean over `rows` of the similarity to the nearest of the picks `unit`, 0 at least."""
    total = 0.0
    for start in range(0, len(rows), BLOCK_ROWS):
        best = (rows[start : start + BLOCK_ROWS] @ unit.T).max(axis=1)
        total += float(np.maximum(best, 0.0).sum(dtype=np.float64))
    return total / len(rows)


def lazy_greedy(
    unit: Matrix, sample: Sample, weight: NDArray[np.float64], size: int, room: Room | None = None
) -> NDArray[np.int64]:
    """Indices of `size` candidates (fewer where there is no room) in greedy order."""
    gains = _Gains(unit, sample, size)
    bound = gains.at_first() * weight
    picks: list[int] = []
    with one_thread():
        while len(picks) < size:
            top = _best(gains, bound, weight)
            if top is None:
                break
            picks.append(top)
            bound[top] = -np.inf
            gains.pick(top)
            if room is not None:
                closed = room.take(top)
                bound[closed[closed < len(bound)]] = -np.inf
    return np.array(picks, dtype=np.int64)


def _best(gains: _Gains, bound: NDArray[np.float64], weight: NDArray[np.float64]) -> int | None:
    """The candidate with the largest gain; `bound` holds last known gains and is brought up to date where needed."""
    fresh = np.isneginf(bound)  # those that cannot be picked
    if fresh.all():
        return None
    batch = min(16, len(bound))
    while not fresh[top := int(bound.argmax())]:
        again = np.argpartition(-bound, batch - 1)[:batch]
        again = again[~fresh[again]]
        if top not in again:  # one of many with the same bound
            again = np.append(again, top)
        bound[again] = gains.of(again) * weight[again]
        fresh[again] = True
        batch = min(2 * batch, _LOOK_AGAIN, len(bound))
    return top


class _Gains:
    """What each candidate would add to the similarity of the sample to its nearest pick.

    A gain that is known from before is brought up to date by the rows alone that have found a nearer pick since: their
    similarities then are kept for as many picks as fit into `HISTORY_BYTES`.
    """

    def __init__(self, unit: Matrix, sample: Sample, size: int) -> None:
        self._unit, self._sample = unit, sample
        num_rows = len(sample.rows)
        self._num_picks = 0
        self._best = np.zeros(num_rows, dtype=np.float32)  # similarity of every row to its nearest pick
        self._changed = np.zeros(num_rows, dtype=np.int64)  # number of the pick that came nearest last
        history = min(size + 1, max(2, HISTORY_BYTES // (4 * num_rows)))
        self._history = np.zeros((history, num_rows), dtype=np.float32)  # `_best` after pick number p at p % history
        self._seen = np.zeros(len(unit), dtype=np.int64)  # picks that every known gain takes into account
        self._known = np.empty(len(unit))
        everyone = np.arange(len(unit))
        for start in range(0, len(unit), _LOOK_AGAIN):
            self._look_at(everyone[start : start + _LOOK_AGAIN])

    def at_first(self) -> NDArray[np.float64]:
        """Gains (N,) of all candidates before the first pick."""
        return self._known.copy()

    def of(self, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Gains (C,) of the candidates."""
        # Together with those that were seen last at about the same time, a candidate has few rows to make up for.
        by_age = candidates[np.argsort(self._seen[candidates], kind="stable")]
        for some in np.array_split(by_age, -(-len(by_age) // _OF_ONE_AGE)):
            self._bring_up_to_date(some)
        return self._known[candidates]

    def pick(self, candidate: int) -> None:
        similar = self._similarity(np.array([candidate]), None)[0]
        self._num_picks += 1
        self._changed[similar > self._best] = self._num_picks
        self._best = np.maximum(self._best, similar)
        self._history[self._num_picks % len(self._history)] = self._best

    def _bring_up_to_date(self, candidates: NDArray[np.int64]) -> None:
        seen = self._seen[candidates]
        rows = np.flatnonzero(self._changed > seen.min())
        if seen.min() <= self._num_picks - len(self._history) or 4 * len(rows) > 3 * len(self._best):
            self._look_at(candidates)
            return
        table = self._similarity(candidates, rows)
        before = self._history[np.ix_(seen % len(self._history), rows)]  # (C, rows)
        lost = np.maximum(table - before, 0.0).sum(axis=1, dtype=np.float64)
        np.maximum(table, self._best[rows], out=table)
        lost -= table.sum(axis=1, dtype=np.float64) - self._best[rows].sum(dtype=np.float64)
        self._known[candidates] -= lost
        self._seen[candidates] = self._num_picks

    def _look_at(self, candidates: NDArray[np.int64]) -> None:
        table = self._similarity(candidates, None)
        np.maximum(table, self._best, out=table)
        self._known[candidates] = table.sum(axis=1, dtype=np.float64) - self._best.sum(dtype=np.float64)
        self._seen[candidates] = self._num_picks

    def _similarity(self, candidates: NDArray[np.int64], rows: NDArray[np.int64] | None) -> Matrix:
        """Similarity (C, R) to all rows of the sample, or to some; a row is not similar to itself."""
        against = self._sample.rows if rows is None else self._sample.rows[rows]
        table: Matrix = self._unit[candidates] @ against.T
        own = self._sample.own[candidates]
        if rows is not None:
            place = np.minimum(np.searchsorted(rows, own), len(rows) - 1)
            own = np.where(rows[place] == own, place, -1) if len(rows) else np.full(len(own), -1)
        inside = np.flatnonzero(own >= 0)
        table[inside, own[inside]] = 0.0
        return table


def _refine(
    unit: Matrix, picks: NDArray[np.int64], weight: NDArray[np.float64], groups: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Move every pick to the row of its neighbourhood (and group) that the neighbourhood is most similar to."""
    for _ in range(_REFINE_ROUNDS):
        labels, _ = nearest(unit, unit[picks])
        labels[picks] = np.arange(len(picks))
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(len(picks) + 1))
        moved = picks.copy()
        with one_thread():
            for at, pick in enumerate(picks.tolist()):
                members = order[bounds[at] : bounds[at + 1]]
                served = _served(unit[members]) * weight[members]
                if groups is not None:
                    served[groups[members] != groups[pick]] = -1.0
                moved[at] = members[int(served.argmax())]
        if (moved == picks).all():
            break
        picks = moved
    return picks


def _served(unit: Matrix) -> NDArray[np.float64]:
    """How similar each of the rows is to all of them together, or to the first of very many."""
    return np.maximum(unit @ unit[:_NEIGHBOURS].T, 0.0).sum(axis=1, dtype=np.float64)
