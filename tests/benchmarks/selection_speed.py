"""Seconds, peak memory and quality of the selection methods on synthetic embeddings.

    python tests/benchmarks/selection_speed.py --rows 59000 --size 1000
    python tests/benchmarks/selection_speed.py --rows 20000 --against-greedy

Every method runs in a process of its own; prints one JSON object a line. `value` is the mean cosine similarity of a row
to the nearest pick, `radius` the distance of the farthest. With --against-greedy, facility location is also run as
exact lazy greedy over all rows, and the ratio of the two values is printed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time

import numpy as np
from numpy.typing import NDArray

from s1.curation import coverage
from s1.curation.diversity import METHODS, select


def embeddings(num_rows: int, dimensions: int = 384, num_clusters: int = 200) -> NDArray[np.float32]:
    """Unit vectors in overlapping clusters."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(num_clusters, dimensions)).astype(np.float32)
    points = centers[rng.integers(num_clusters, size=num_rows)]
    points += 1.2 * rng.standard_normal(size=points.shape, dtype=np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def nearest_similarity(points: NDArray[np.float32], picks: NDArray[np.int64]) -> NDArray[np.float32]:
    blocks = (points[at : at + 4096] @ points[picks].T for at in range(0, len(points), 4096))
    return np.concatenate([block.max(axis=1) for block in blocks])


def measure(arguments: tuple[str, int, int, bool]) -> dict[str, object]:
    method, num_rows, size, exact = arguments
    points = embeddings(num_rows)
    rng = np.random.default_rng(1)
    lengths = rng.integers(100, 20_000, size=num_rows)
    domains = rng.integers(0, 50, size=num_rows).astype(str)
    if exact:
        coverage.SAMPLE_ROWS = num_rows
    started = time.monotonic()
    picks = select(points, size, method, lengths=lengths, domains=domains)
    seconds = time.monotonic() - started
    similarity = nearest_similarity(points, picks)
    return {
        "method": method + (" (exact)" if exact else ""),
        "rows": num_rows,
        "size": size,
        "seconds": round(seconds, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "value": round(float(np.maximum(similarity, 0).mean()), 4),
        "radius": round(float(np.sqrt(2 - 2 * similarity.min())), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=59_000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--against-greedy", action="store_true")
    options = parser.parse_args()
    runs = [(method, options.rows, options.size, False) for method in options.methods]
    if options.against_greedy:
        runs = [("facility_location", options.rows, options.size, exact) for exact in (False, True)]
    results: list[dict[str, object]] = []
    for run in runs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results.append(pool.apply(measure, (run,)))
        print(json.dumps(results[-1]), flush=True)
    if options.against_greedy:
        print(json.dumps({"ratio_to_greedy": round(float(results[0]["value"]) / float(results[1]["value"]), 4)}))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
