"""The paired bootstrap of 10,000 resamples, against drawing and averaging one resample after another.

python tests/benchmarks/bootstrap_speed.py --questions 500 --runs 10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from s1.evaluation.bootstrap import RESAMPLES, resampled_means


def one_by_one(outcomes: np.ndarray, resamples: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.array(
        [outcomes[random.integers(len(outcomes), size=len(outcomes))].mean(axis=0) for _ in range(resamples)]
    )


def seconds(work: Callable[[], np.ndarray]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    options = parser.parse_args()
    outcomes = (np.random.default_rng(0).random((options.questions, options.runs)) < 0.5).astype(float)
    together = min(seconds(lambda: resampled_means(outcomes, options.resamples)) for _ in range(3))
    apart = min(seconds(lambda: one_by_one(outcomes, options.resamples)) for _ in range(3))
    print(f"{options.resamples:,} resamples of {options.questions} questions x {options.runs} runs, best of 3")
    print(f"together:   {together:.3f} s")
    print(f"one by one: {apart:.3f} s ({apart / together:.1f} times as long)")


if __name__ == "__main__":
    main()
