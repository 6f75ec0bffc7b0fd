"""The responses of one model as matrices, questions by runs, and every interval that follows from them.

All runs of a model are resampled together, so that the intervals of what is compared are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import hypot
from typing import Any

import numpy as np

from s1.evaluation.bootstrap import RESAMPLES, Floats, Interval, bounds, resampled_ratios, share_bounds

Row = Mapping[str, Any]
Bounds = tuple[float, float]
_EQUAL = 1e-9  # logarithms of token counts that are the same


class Sheet:
    """`runs`: rows of GENERATIONS by setting; `groups`: settings whose Control is counted together."""

    def __init__(
        self,
        runs: Mapping[str, Sequence[Row]],
        groups: Mapping[str, Sequence[Row]],
        within: Mapping[str, Sequence[bool]],
        resamples: int = RESAMPLES,
    ) -> None:
        """`within[group]` says of each row of the group whether it kept to what was asked."""
        rows = [row for run in runs.values() for row in run]
        self._index = {key: at for at, key in enumerate(sorted({row["question_id"] for row in rows}))}
        self._runs = {name: at for at, name in enumerate(runs)}
        self._groups = {name: at for at, name in enumerate(groups)}
        graded = [[row for row in run if row["correct"] is not None] for run in runs.values()]
        columns = [self._column(rows, [100.0 * row["correct"] for row in rows]) for rows in graded]
        columns += [self._column(run, [row["thinking_tokens"] for row in run]) for run in runs.values()]
        columns += [self._column(run, [row["total_tokens"] or 0 for row in run]) for run in runs.values()]
        columns += [self._column(rows, [100.0 * hit for hit in within[name]]) for name, rows in groups.items()]
        self._sums, self._counts = (np.stack(part, axis=1) for part in zip(*columns, strict=True))  # (Q, 3S + G)
        self._resamples = resamples
        self._draws = resampled_ratios(self._sums, self._counts, resamples)

    def _column(self, rows: Sequence[Row], values: Sequence[float]) -> tuple[Floats, Floats]:
        """Per question the sum of its responses and their number."""
        at = [self._index[row["question_id"]] for row in rows]
        size = len(self._index)
        sums = np.bincount(at, weights=np.asarray(values, dtype=np.float64), minlength=size)
        return sums.astype(np.float64), np.bincount(at, minlength=size).astype(np.float64)

    def accuracy(self, run: str) -> Bounds:
        """Interval of the accuracy in percent; the whole of it without a graded response."""
        return self._share(self._runs[run])

    def control(self, group: str) -> Bounds:
        """Interval of the percentage of responses that kept to what was asked."""
        return self._share(self._column_of(group))

    def control_lead(self, group: str, other: str) -> Interval | None:
        """By how many percentage points `group` keeps to what is asked more often than `other`.

        On the questions that both were asked, None when there is none. Where the two show no spread against each
        other, the bounds follow from the interval of each (Newcombe's method).
        """
        columns = [self._column_of(group), self._column_of(other)]
        common = (self._counts[:, columns] > 0).all(axis=1)
        if not common.any():
            return None
        sums, counts = self._sums[common][:, columns], self._counts[common][:, columns]
        first, second = sums.sum(axis=0) / counts.sum(axis=0)
        draws = resampled_ratios(sums, counts, self._resamples)
        low, high = bounds(draws[:, 0] - draws[:, 1])
        if low == high:
            one, two = (share_bounds(draws[:, at], len(sums)) for at in (0, 1))
            low -= hypot(first - one[0], two[1] - second)
            high += hypot(one[1] - first, second - two[0])
        return Interval(float(first - second), low, high)

    def thinking_tokens(self, run: str) -> Bounds:
        """Interval of the mean."""
        return bounds(self._draws[:, len(self._runs) + self._runs[run]])

    def total_tokens(self, run: str) -> Bounds:
        """Interval of the mean."""
        return bounds(self._draws[:, 2 * len(self._runs) + self._runs[run]])

    def performance(self, runs: Sequence[str]) -> Bounds:
        """Interval of the best accuracy of `runs`."""
        columns = [self._runs[run] for run in runs]
        return share_bounds(self._draws[:, columns].max(axis=1), len(self._index))

    def scaling(self, runs: Sequence[str]) -> Bounds:
        """Interval of the mean slope over all pairs of `runs`, accuracy and tokens resampled together."""
        at = [self._runs[run] for run in runs]
        tokens = self._draws[:, [len(self._runs) + run for run in at]]
        return bounds(slopes(tokens, self._draws[:, at]))

    def _column_of(self, group: str) -> int:
        return 3 * len(self._runs) + self._groups[group]

    def _share(self, column: int) -> Bounds:
        num_questions = int((self._counts[:, column] > 0).sum())
        if not num_questions:
            return 0.0, 100.0
        return share_bounds(self._draws[:, column], num_questions)


def slopes(tokens: Floats, accuracy_pct: Floats) -> Floats:
    """`metrics.scaling` of many resamples at once: (R, K), (R, K) -> (R,); NaN where no two runs differ in compute."""
    with np.errstate(divide="ignore", invalid="ignore"):
        compute = np.log2(tokens)
    total, pairs = np.zeros(len(tokens)), np.zeros(len(tokens))
    for first, second in combinations(range(tokens.shape[1]), 2):
        step = compute[:, second] - compute[:, first]
        rise = accuracy_pct[:, second] - accuracy_pct[:, first]
        known = np.isfinite(step) & np.isfinite(rise) & (np.abs(step) > _EQUAL)
        total += np.divide(rise, step, out=np.zeros_like(rise), where=known)
        pairs += known
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)
