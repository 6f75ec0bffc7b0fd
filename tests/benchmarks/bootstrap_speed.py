"""The paired bootstrap of 10,000 resamples, against drawing and averaging one resample after another.

python tests/benchmarks/bootstrap_speed.py --questions 500 --runs 10

Exit code 1 when the bootstrap takes 2 s or more for 500 questions and 10 runs, or longer than one resample after
another.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from s1.evaluation.bootstrap import RESAMPLES, resampled_means

QUESTIONS, RUNS = 500, 10
MAX_SECONDS = 2.0  # for RESAMPLES of those


def one_by_one(outcomes: np.ndarray, resamples: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.array(
        [outcomes[random.integers(len(outcomes), size=len(outcomes))].mean(axis=0) for _ in range(resamples)]
    )


def seconds(work: Callable[[], np.ndarray]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def missed_bounds(options: argparse.Namespace, together: float, apart: float) -> list[str]:
    """What the seconds of both ways miss."""
    missed = [f"together takes {together:.3f} s, one by one {apart:.3f} s"] if together > apart else []
    stated = (options.questions, options.runs, options.resamples) == (QUESTIONS, RUNS, RESAMPLES)
    if stated and together >= MAX_SECONDS:
        missed.append(f"{RESAMPLES:,} resamples take {together:.3f} s, less than {MAX_SECONDS} are allowed")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    options = parser.parse_args()
    outcomes = (np.random.default_rng(0).random((options.questions, options.runs)) < 0.5).astype(float)
    together = min(seconds(lambda: resampled_means(outcomes, options.resamples)) for _ in range(3))
    apart = min(seconds(lambda: one_by_one(outcomes, options.resamples)) for _ in range(3))
    print(f"{options.resamples:,} resamples of {options.questions} questions x {options.runs} runs, best of 3")
    print(f"together:   {together:.3f} s")
    print(f"one by one: {apart:.3f} s ({apart / together:.1f} times as long)")
    missed = missed_bounds(options, together, apart)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
