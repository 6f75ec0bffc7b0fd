"""95% intervals by the paired bootstrap: questions are drawn again, the same ones for every run (paper, section 4).

The paper compares data sets with it, over 10,000 resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
_CELLS = 4_000_000  # weights in memory at a time


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


def resampled_means(outcomes: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Means of every run over the same resampled questions: outcomes (N, K) -> (resamples, K).

    Row n of `outcomes` is a question, column k a run. ValueError without any question.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"outcomes of shape {values.shape}: must be (questions, runs), at least one of each")
    num_questions = len(values)
    random = np.random.default_rng(seed)
    chunk = max(1, _CELLS // num_questions)
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = random.integers(num_questions, size=(rows, num_questions))
        # How often every question was drawn, as one count over (row, question).
        drawn += np.arange(rows)[:, None] * num_questions
        weights = np.bincount(drawn.ravel(), minlength=rows * num_questions).reshape(rows, num_questions)
        means.append(weights @ values / num_questions)
    return np.concatenate(means)


def interval(outcomes: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of one run over its questions (N,)."""
    values = np.asarray(outcomes, dtype=np.float64)
    low, high = np.percentile(resampled_means(values[:, None], resamples, seed)[:, 0], [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def difference(run: ArrayLike, other: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """How much better `run` is than `other` on the same questions (N,), in the unit of the outcomes."""
    pairs = np.stack([np.asarray(run, dtype=np.float64), np.asarray(other, dtype=np.float64)], axis=1)
    means = resampled_means(pairs, resamples, seed)
    low, high = np.percentile(means[:, 0] - means[:, 1], [2.5, 97.5])
    return Interval(float((pairs[:, 0] - pairs[:, 1]).mean()), float(low), float(high))
