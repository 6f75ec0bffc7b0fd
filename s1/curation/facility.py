"""Facility location: the picks to which all rows together are most similar (cosine), by lazy greedy.

Gains only shrink from pick to pick, so a candidate is looked at again only when its last known gain is the largest
(Minoux 1978). The similarities of the candidates to the rows that gains are sums over are computed once and kept, in a
table of bounded size: as float32 where that fits, else in 255 steps, whose error is nothing beside that of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s1.curation.coverage import BLOCK_ROWS, Matrix, nearest, one_thread, unit_length
from s1.curation.quota import Room

# Gains are sums over this many rows, or over this many times the size, as far as the table below has room for both its
# sides; of more rows, over a sample.
SAMPLE_ROWS, SAMPLE_ROWS_PER_PICK = 8192, 8
# Of more rows than fit into such a table, or than so many times the size, a sample are candidates at first.
TABLE_BYTES, CANDIDATE_ROWS_PER_PICK = 512 << 20, 4
# Greedy runs on a sample each, whose picks are the candidates of the last run.
SAMPLES = 3
_STEPS = 255  # of a similarity, where a byte has to do
_MOST_ROWS = 1 << 24  # whose sum of steps 32 bits hold
_TABLE_CELLS = 1 << 22  # of the table that are made at a time
_LOOK_AGAIN = 256  # candidates that are looked at together, at most
_REFINE_ROUNDS = 4
_NEIGHBOURS = 512  # rows of a neighbourhood that its rows are compared with, at most


@dataclass(frozen=True)
class Sample:
    """The rows that gains are sums over, of unit length, and where they stand among the candidates."""

    rows: Matrix  # (R, D)
    own: NDArray[np.int64]  # (N,) place of every candidate in `rows`, -1 for none; a row does not count for itself


def num_sample_rows(num_rows: int, size: int) -> int:
    """Rows that gains are sums over when `size` of `num_rows` are picked: with `num_candidates` rows beside them, the
    table has a byte for each pair in TABLE_BYTES at most.
    """
    most = TABLE_BYTES // max(1, min(num_rows, CANDIDATE_ROWS_PER_PICK * size))
    return min(num_rows, max(SAMPLE_ROWS, SAMPLE_ROWS_PER_PICK * size), most)


def facility_location(
    points: Matrix, size: int, quality: NDArray[np.float64] | None = None, room: Room | None = None
) -> NDArray[np.int64]:
    """Picks that maximise the sum over rows of the cosine similarity to the nearest pick (0 at least), in greedy order.

    Where there are many rows, greedy runs on several samples (parts of the rows, whose order is random) make a short
    list, of which a last run picks with gains over all rows, or over the largest sample that its table has room for;
    where there are very many, the candidates of each run are a sample too. Then every pick moves to the row that serves
    its neighbourhood best, of all rows. With `quality`, the gain of a candidate counts times its quality; with `room`,
    no group gives more rows than it has room for.
    """
    unit = unit_length(points)
    num_rows = num_sample_rows(len(unit), size)
    few = num_candidates(len(unit), num_rows, size)
    weight = np.ones(len(unit)) if quality is None else quality
    if num_rows == few == len(unit):
        return lazy_greedy(unit, everything(unit), weight, size, room)
    found: list[NDArray[np.int64]] = []
    for start in np.linspace(0, len(unit) - num_rows, SAMPLES).astype(int).tolist():
        # The candidates begin at the sample, too, as far as there are as many behind it.
        first = min(start, len(unit) - few)
        among, place = slice(first, first + few), np.arange(first, first + few) - start
        sample = Sample(unit[start : start + num_rows], np.where((place >= 0) & (place < num_rows), place, -1))
        found.append(first + lazy_greedy(unit[among], sample, weight[among], size, room and room.among(among)))
    short = np.unique(np.concatenate(found))
    sample = _largest(unit, short)
    picks = short[lazy_greedy(unit[short], sample, weight[short], size, room and room.among(short))]
    picks = _refine(unit, picks, weight, None if room is None else room.groups)
    order = lazy_greedy(unit[picks], _largest(unit, picks), weight[picks], size)
    return picks[order]


def _largest(unit: Matrix, candidates: NDArray[np.int64]) -> Sample:
    """All rows, or as many as there is room for in the table of so many candidates."""
    num_rows = min(TABLE_BYTES // len(candidates), _MOST_ROWS)
    if num_rows >= len(unit):
        return Sample(unit, np.full(len(candidates), -1))  # each counts for itself too
    return Sample(unit[:num_rows], np.where(candidates < num_rows, candidates, -1))


def num_candidates(num_rows: int, num_sampled: int, size: int) -> int:
    """Rows of `num_rows` that can be picked before the picks move, when gains are sums over `num_sampled`."""
    return min(num_rows, max(TABLE_BYTES // max(1, num_sampled), CANDIDATE_ROWS_PER_PICK * size))


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
    gains = _Gains(unit, sample)
    bound = gains.of(None) * weight
    picks: list[int] = []
    while len(picks) < size:
        top = _best(gains, bound, weight)
        if top is None:
            break
        picks.append(top)
        bound[top] = -np.inf
        gains.pick(top)
        if room is not None:
            bound[room.take(top)] = -np.inf
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
    """What each candidate would add to the similarity of the sample to its nearest pick."""

    def __init__(self, unit: Matrix, sample: Sample) -> None:
        exact = 4 * len(unit) * len(sample.rows) <= TABLE_BYTES
        dtype = np.float32 if exact else np.uint8
        self._table: NDArray[Any] = np.empty((len(unit), len(sample.rows)), dtype=dtype)  # (N, R)
        height = max(1, _TABLE_CELLS // len(sample.rows))
        for start in range(0, len(unit), height):
            block = slice(start, start + height)
            similar: Matrix = unit[block] @ sample.rows.T
            own = sample.own[block]
            inside = np.flatnonzero(own >= 0)
            similar[inside, own[inside]] = 0.0  # a row is not similar to itself
            np.clip(similar, 0.0, 1.0, out=similar)
            self._table[block] = similar if exact else np.rint(similar * _STEPS)
        self._best: NDArray[Any] = np.zeros(
            len(sample.rows), dtype=dtype
        )  # similarity of every row to its nearest pick

    def of(self, candidates: NDArray[np.int64] | None) -> NDArray[np.float64]:
        """Gains (C,) of some candidates, or of all."""
        rows = range(len(self._table)) if candidates is None else candidates
        gains = np.empty(len(rows))
        height = max(1, _TABLE_CELLS // self._table.shape[1])
        for start in range(0, len(rows), height):
            part = slice(start, start + height)
            table = self._table[part] if candidates is None else self._table[candidates[part]]
            gains[part] = self._sum(np.maximum(table, self._best))
        return gains - self._sum(self._best)

    def pick(self, candidate: int) -> None:
        np.maximum(self._best, self._table[candidate], out=self._best)

    def _sum(self, similarities: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over the sample."""
        precise = np.float64 if similarities.dtype == np.float32 else np.uint32
        return np.asarray(similarities.sum(axis=-1, dtype=precise), dtype=np.float64)


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
