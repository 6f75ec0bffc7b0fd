"""95% intervals by the paired bootstrap: questions are drawn again, the same ones for every run (paper, section 4).

The paper compares data sets with it, over 10,000 resamples. Everything is one product of two matrices: how often each
question was drawn, and what each run made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
_CELLS = 4_000_000  # weights in memory at a time
_ALIKE = 1e-9  # percentage points between resamples that differ by nothing but rounding

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean differs from 0 at the 5% level."""
        return self.low > 0 or self.high < 0


def resampled_means(outcomes: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means of every run over the same resampled questions: outcomes (N, K) -> (resamples, K).

    Row n of `outcomes` is a question, column k a run. ValueError without any question.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"outcomes of shape {values.shape}: must be (questions, runs), at least one of each")
    return np.concatenate([weights @ values / len(values) for weights in _weights(len(values), resamples, seed)])


def resampled_ratios(sums: Floats, counts: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means of every run over the same resampled questions, where a question has any number of responses.

    sums, counts: (N, K), the sum over the responses to a question and how many there are -> (resamples, K), NaN where
    no response was drawn.
    """
    parts: list[Floats] = []
    for weights in _weights(len(sums), resamples, seed):
        total, drawn = weights @ sums, weights @ counts
        parts.append(np.divide(total, drawn, out=np.full_like(total, np.nan), where=drawn > 0))
    return np.concatenate(parts)


def _weights(num_questions: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each question was drawn: matrices of (some of the resamples, N)."""
    random = np.random.default_rng(seed)
    chunk = max(1, _CELLS // num_questions)

    def draw(start: int) -> Floats:
        rows = min(chunk, resamples - start)
        drawn = random.integers(num_questions, size=(rows, num_questions))
        # One count over (row, question).
        drawn += np.arange(rows)[:, None] * num_questions
        counts = np.bincount(drawn.ravel(), minlength=rows * num_questions)
        return counts.reshape(rows, num_questions).astype(np.float64)

    return map(draw, range(0, resamples, chunk))


def bounds(draws: Floats) -> tuple[float, float]:
    """The 95% interval of resampled values (R,); NaN when there is none."""
    known = draws[~np.isnan(draws)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def share_bounds(draws: Floats, num_questions: int) -> tuple[float, float]:
    """The 95% interval of a resampled percentage.

    Where every question came out alike, resampling shows no spread at all, whatever their number: then the interval
    is Wilson's. That holds between 0 and 100, too: of two responses to every question, one each may be right.
    """
    low, high = bounds(draws)
    if high - low < _ALIKE:
        low, high = (100 * bound for bound in wilson(low / 100 * num_questions, num_questions))
    return low, high


def wilson(successes: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share by Wilson's score; the whole of [0, 1] without any trial."""
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, z * z / trials
    centre = share + weight / 2
    spread = z * sqrt(share * (1 - share) / trials + weight / (4 * trials))
    low, high = (centre - spread) / (1 + weight), (centre + spread) / (1 + weight)
    return (0.0 if successes == 0 else max(0.0, low)), (1.0 if successes == trials else min(1.0, high))


def interval(percentages: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of one run over its questions (N,), each in percent; see `share_bounds`."""
    values = np.asarray(percentages, dtype=np.float64)
    low, high = share_bounds(resampled_means(values[:, None], resamples, seed)[:, 0], len(values))
    return Interval(float(values.mean()), low, high)


def difference(run: ArrayLike, other: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """How much better `run` is than `other` on the same questions (N,), in the unit of the outcomes."""
    pairs = np.stack([np.asarray(run, dtype=np.float64), np.asarray(other, dtype=np.float64)], axis=1)
    means = resampled_means(pairs, resamples, seed)
    low, high = bounds(means[:, 0] - means[:, 1])
    return Interval(float((pairs[:, 0] - pairs[:, 1]).mean()), low, high)
