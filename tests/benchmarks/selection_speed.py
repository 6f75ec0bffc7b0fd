"""Seconds, peak memory and quality of the selection methods on synthetic embeddings.

    python tests/benchmarks/selection_speed.py
    python tests/benchmarks/selection_speed.py --rows 59000 --methods facility_location k_center
    python tests/benchmarks/selection_speed.py --rows 8000 --peer
    python tests/benchmarks/selection_speed.py --rows 59000 --against-greedy
    python tests/benchmarks/selection_speed.py --rows 59000 --shards 2 --methods facility_location k_center
    python tests/benchmarks/selection_speed.py --rows 59000 --near-duplicates
    python tests/benchmarks/selection_speed.py --rows 1000000 --job --methods facility_location
    python tests/benchmarks/selection_speed.py --rows 1000000 --methods facility_location k_center

Without options all of these runs; with options one of them. Every run has a process of its own; prints one JSON object
a line. `value` is the mean cosine similarity of a row to the nearest pick, `radius` the distance of the farthest,
`peak_gb` the whole process with the embeddings that it was given; `cpu_seconds` are those of all its threads, whatever
else the machine has to do.
--peer also runs the lazy greedy of apricot-select (of the extra `bench`) on the same rows; --against-greedy runs
our own greedy with all rows in one table (3.5 GB for 59,000); --shards compares Ray actors with one process; --job runs
`jobs.select` as a user does on a FEATURES table of so many rows (its texts are short), where memory is the sum of
proportional set sizes over the job's tree of processes; --near-duplicates removes them alone. Ratios are printed last.
Exit code 1 when a bound is missed, which is said on stderr: picks of k-center on shards are those of one process, a
value is at least 0.995 of what it is compared with (on shards 0.99), less time and memory than the peer, seconds and
memory of 59,000 and of 1,000,000 rows, of the job too, and CPU seconds a row of 1,000,000 rows at most 1.5 times those
of 59,000.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.curation import coverage, facility
from s1.curation.diversity import METHODS, select

sys.path.insert(0, str(Path(__file__).parents[1]))
from process_tree import watched

Row = dict[str, Any]

LARGE = ("facility_location", "k_center")  # what runs on many rows
MIN_VALUE_RATIO, MIN_SHARDED_VALUE_RATIO = 0.995, 0.99
MAX_SECONDS = {(59_000, "facility_location"): 60, (59_000, "k_center"): 10} | {(1_000_000, name): 900 for name in LARGE}
MAX_PEAK_GB = {59_000: 1.0, 1_000_000: 4.0}  # of the rows that a run has; all rows are in memory
MAX_GROWTH_PER_ROW = 1.5  # CPU seconds a row of the larger run over those of the smaller one
JOB_ROWS, MAX_JOB_SECONDS, MAX_JOB_PEAK_GB = 1_000_000, 900, 6.0
NEAR_DUPLICATE = 0.95  # cosine similarity
DIMENSIONS, BLOCK_ROWS = 384, 8192


def embedding_blocks(num_rows: int, num_clusters: int = 200) -> Iterator[NDArray[np.float32]]:
    """Unit vectors in overlapping clusters."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(num_clusters, DIMENSIONS)).astype(np.float32)
    for start in range(0, num_rows, BLOCK_ROWS):
        block = rng.standard_normal((min(BLOCK_ROWS, num_rows - start), DIMENSIONS), dtype=np.float32)
        block *= 1.2
        block += centers[rng.integers(num_clusters, size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        yield block


def embeddings(num_rows: int) -> NDArray[np.float32]:
    """All of them, without a copy of the whole."""
    points = np.empty((num_rows, DIMENSIONS), dtype=np.float32)
    for number, block in enumerate(embedding_blocks(num_rows)):
        points[number * BLOCK_ROWS : number * BLOCK_ROWS + len(block)] = block
    return points


def quality(points: NDArray[np.float32], picks: NDArray[np.int64]) -> Row:
    """value and radius of some picks."""
    blocks = (points[at : at + 4096] @ points[picks].T for at in range(0, len(points), 4096))
    similarity = np.concatenate([block.max(axis=1) for block in blocks])
    return {
        "value": round(float(np.maximum(similarity, 0).mean()), 5),
        "radius": round(float(np.sqrt(max(0.0, 2 - 2 * float(similarity.min())))), 4),
    }


def measured(name: str, num_rows: int, size: int, how: str) -> Row:
    """One run: how = ours, sampled (half of the rows are candidates), exact (greedy on all rows) or apricot."""
    points = embeddings(num_rows)
    before_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rng = np.random.default_rng(1)
    lengths = rng.integers(100, 20_000, size=num_rows)
    domains = rng.integers(0, 50, size=num_rows).astype(str).tolist()
    started, started_cpu = time.monotonic(), time.process_time()
    if how == "apricot":
        picks = apricot(points, size)
    else:
        if how == "exact":  # a byte for a similarity, whose error is less than what is compared
            facility.SAMPLE_ROWS, facility.TABLE_BYTES = num_rows, num_rows**2
        elif how == "sampled":
            facility.TABLE_BYTES = num_rows // 2 * facility.num_sample_rows(num_rows, size)
        picks = select(points, size, name, lengths=lengths, domains=domains)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - started_cpu
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "method": name if how == "ours" else f"{name} ({how})",
        "rows": num_rows,
        "size": size,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_gb": round(peak_gb, 2),
        "given_gb": round(before_gb, 2),
        **quality(points, picks),
    }


def apricot(points: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Lazy greedy of apricot-select on the full table of cosine similarities, 0 at least."""
    from apricot import FacilityLocationSelection  # type: ignore[import-not-found]

    table = np.maximum(points @ points.T, 0).astype(np.float64)
    chosen: Any = FacilityLocationSelection(size, metric="precomputed", optimizer="lazy").fit(table)
    return np.asarray(chosen.ranking, dtype=np.int64)


def near_duplicates(num_rows: int) -> Row:
    """The search for near-duplicates where there are none: every row is compared with every other."""
    points = embeddings(num_rows)
    started = time.monotonic()
    dropped = coverage.near_duplicates(points, NEAR_DUPLICATE)
    seconds = time.monotonic() - started
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = {"dropped": int(dropped.sum()), "seconds": round(seconds, 2), "peak_gb": round(peak_gb, 2)}
    return {"near_duplicates": NEAR_DUPLICATE, "rows": num_rows, **found}


def alone(run: Callable[..., Row], *arguments: Any) -> Row:
    """A run in a process of its own, so that peaks do not mix."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: Row = pool.apply(run, arguments)
    print(json.dumps(result), flush=True)
    return result


def plain(num_rows: int, size: int, methods: Sequence[str]) -> list[Row]:
    """Every method alone."""
    return [alone(measured, name, num_rows, size, "ours") for name in methods]


def missed_bounds(runs: Sequence[Row]) -> list[str]:
    """Seconds, memory, and how CPU seconds grow from a run to a larger one of the same method."""
    missed: list[str] = []
    for run in runs:
        method, num_rows = run["method"], run["rows"]
        if method not in LARGE or num_rows not in MAX_PEAK_GB:
            continue
        name, seconds, peak_gb = f"{method}, {num_rows} rows", run["seconds"], run["peak_gb"]
        if peak_gb > MAX_PEAK_GB[num_rows]:
            missed.append(f"{name}: {peak_gb} GB, at most {MAX_PEAK_GB[num_rows]}")
        if seconds > (most := MAX_SECONDS.get((num_rows, method), seconds)):
            missed.append(f"{name}: {seconds} s, at most {most}")
        for smaller in (other for other in runs if other["method"] == method and other["rows"] < num_rows):
            growth = run["cpu_seconds"] / num_rows / (smaller["cpu_seconds"] / smaller["rows"])
            if growth > MAX_GROWTH_PER_ROW:
                than = f"{growth:.2f} times the CPU seconds a row of {smaller['rows']} rows"
                missed.append(f"{name}: {than}, at most {MAX_GROWTH_PER_ROW}")
    return missed


def as_a_job(name: str, num_rows: int, size: int) -> Row:
    """`jobs.select` on a table of so many rows, as a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        write_features(folder, num_rows)
        command = [sys.executable, "-m", "jobs.select", "--run-dir", folder, "--size", str(size), "--method", name]
        seconds, peak = watched(command, lambda line, _: print(line, file=sys.stderr), every_s=0.25)
    result = {"job": name, "rows": num_rows, "seconds": round(seconds, 1), "peak_gb": round(peak / 1e9, 2)}
    print(json.dumps(result), flush=True)
    return result


def missed_by_job(run: Row) -> list[str]:
    """Bounds that a run of the job misses."""
    if run["rows"] != JOB_ROWS:
        return []
    name = f"jobs.select, {run['job']}, {run['rows']} rows"
    bounds = {"seconds": MAX_JOB_SECONDS, "peak_gb": MAX_JOB_PEAK_GB}
    return [f"{name}: {run[what]} {what}, at most {most}" for what, most in bounds.items() if run[what] > most]


def write_features(run_dir: str, num_rows: int) -> None:
    """FEATURES with a file for every block of rows; nothing rules a row out."""
    import pyarrow as pa

    place = schema.FEATURES.get_field_index("embedding")
    with Artifact(f"{run_dir}/features").staging() as staging:
        for number, block in enumerate(embedding_blocks(num_rows)):
            first = number * BLOCK_ROWS
            rows = [
                {
                    "question_id": f"{first + at}",
                    "question": f"What is {first + at} + 1?",
                    "answer": f"{first + at + 1}",
                    "source": f"files:{at % 16}",
                    "domain": f"{at % 50}",
                    "thinking": f"It is one more than {first + at}.",
                    "attempt": f"Answer: {first + at + 1}",
                    "quality_issues": [],
                    "trace_correct": True,
                    "solver_correct": False,
                    "solver_attempts": 2,
                    "solver_solved": 0,
                    "trace_tokens": 100 + at,
                    "thinking_tokens": 90 + at,
                }
                for at in range(len(block))
            ]
            starts = np.arange(0, block.size + 1, DIMENSIONS, dtype=np.int32)
            column = pa.ListArray.from_arrays(starts, block.reshape(-1)).cast(pa.list_(pa.float32()))
            table = schema.to_table(rows, schema.FEATURES)
            table = table.set_column(place, schema.FEATURES.field("embedding"), column)
            staging.write_table(table, f"part-{number:05d}.parquet")
        staging.commit(Manifest("featurize", "f" * 16, {}, {}, "0", num_rows, num_rows))


def compared(num_rows: int, size: int, others: Sequence[str]) -> list[str]:
    """Facility location beside other ways to do it; bounds that are missed."""
    runs = {how: alone(measured, "facility_location", num_rows, size, how) for how in ("ours", *others)}
    missed: list[str] = []
    for how in others:
        names = ("value", "seconds", "cpu_seconds", "peak_gb")
        ratios = {name: round(runs["ours"][name] / runs[how][name], 5) for name in names}
        print(json.dumps({f"ours over {how}": ratios}), flush=True)
        if ratios["value"] < MIN_VALUE_RATIO:
            missed.append(f"value over {how}: {ratios['value']}, at least {MIN_VALUE_RATIO}")
        if how == "apricot":
            missed += [f"{name} over {how}: {ratios[name]}, at most 1" for name in names[2:] if ratios[name] > 1]
    return missed


def on_shards(num_rows: int, size: int, shards: int, methods: Sequence[str]) -> list[str]:
    """Ray actors beside one process; bounds that are missed."""
    missed: list[str] = []
    for result in (sharded(name, num_rows, size, shards) for name in methods):
        if result["method"] == "k_center" and not result["same_picks"]:
            missed.append(f"k_center on {shards} shards: not the picks of one process")
        if result["value_ratio"] < MIN_SHARDED_VALUE_RATIO:
            least = MIN_SHARDED_VALUE_RATIO
            missed.append(f"{result['method']} on shards: value {result['value_ratio']}, at least {least}")
    return missed


def everything(size: int) -> list[str]:
    """All runs, the large ones last; bounds that are missed."""
    runs = plain(59_000, size, LARGE)
    alone(near_duplicates, 59_000)
    missed: list[str] = []
    if importlib.util.find_spec("apricot") is None:
        print("left out: the lazy greedy of apricot-select (pip install apricot-select)", file=sys.stderr)
    else:
        missed += compared(8_000, size, ("apricot",))
    missed += compared(20_000, size, ("sampled",))
    missed += compared(59_000, size, ("exact",))
    missed += on_shards(59_000, size, 2, LARGE)
    missed += missed_bounds([*runs, *plain(1_000_000, size, LARGE)])
    for name in LARGE:
        missed += missed_by_job(as_a_job(name, JOB_ROWS, size))
    return missed


def sharded(name: str, num_rows: int, size: int, shards: int) -> Row:
    """The same selection as a job on FEATURES, in one process and on shards."""
    from jobs.ray_session import ray_session
    from jobs.runner import execute
    from jobs.select import JOB, SelectOptions

    points = embeddings(num_rows)
    with tempfile.TemporaryDirectory() as run_dir, ray_session():
        write_features(run_dir, num_rows)
        picks: dict[int, NDArray[np.int64]] = {}
        seconds: dict[int, float] = {}
        for count in (1, shards):
            options = SelectOptions.model_validate({"size": size, "method": name, "shards": count})
            started = time.monotonic()
            execute(JOB, options, run_dir)
            seconds[count] = round(time.monotonic() - started, 2)
            rows = Artifact(f"{run_dir}/selection").read(schema.SELECTION, columns=["question_id"])
            picks[count] = np.array([int(key) for key in rows["question_id"].to_pylist()])
    ours, theirs = quality(points, picks[1]), quality(points, picks[shards])
    result = {
        "method": name,
        "rows": num_rows,
        "shards": shards,
        "same_picks": picks[1].tolist() == picks[shards].tolist(),
        "value_ratio": round(theirs["value"] / ours["value"], 5),
        "seconds_one_process": seconds[1],
        "seconds_shards": seconds[shards],
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--against-greedy", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--job", action="store_true")
    parser.add_argument("--near-duplicates", action="store_true")
    options = parser.parse_args()
    one = any(value for name, value in vars(options).items() if name != "size")
    missed = [] if one else everything(options.size)
    runs: list[Row] = []
    for num_rows in (options.rows or [59_000]) if one else ():
        if options.shards:
            missed += on_shards(num_rows, options.size, options.shards, options.methods or LARGE)
        elif options.against_greedy or options.peer:
            missed += compared(num_rows, options.size, ("sampled", "exact") if options.against_greedy else ("apricot",))
        elif options.near_duplicates:
            alone(near_duplicates, num_rows)
        elif options.job:
            for name in options.methods or LARGE:
                missed += missed_by_job(as_a_job(name, num_rows, options.size))
        else:
            runs += plain(num_rows, options.size, options.methods or METHODS)
    missed += missed_bounds(runs)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
