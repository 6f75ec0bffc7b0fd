"""Seconds, peak memory and quality of the selection methods on synthetic embeddings.

    python tests/benchmarks/selection_speed.py
    python tests/benchmarks/selection_speed.py --rows 59000 --methods facility_location k_center
    python tests/benchmarks/selection_speed.py --rows 8000 --peer
    python tests/benchmarks/selection_speed.py --rows 20000 --against-greedy
    python tests/benchmarks/selection_speed.py --rows 59000 --shards 2 --methods facility_location k_center
    python tests/benchmarks/selection_speed.py --rows 1000000 --methods facility_location k_center

Without options all of these runs; with options one of them. Every run has a process of its own; prints one JSON object
a line. `value` is the mean cosine similarity of a row to the nearest pick, `radius` the distance of the farthest,
`peak_gb` the whole process with the embeddings that it was given; `cpu_seconds` are those of all its threads, whatever
else the machine has to do.
--peer also runs the lazy greedy of apricot-select (of the extra `bench`) on the same rows; --against-greedy runs
our own exact lazy greedy on all rows; --shards compares Ray actors with one process. Ratios are printed last. Exit code
1 when a bound is missed, which is said on stderr: picks of k-center on shards are those of one process, a value is at
least 0.995 of what it is compared with (on shards 0.99), less time and memory than the peer, seconds and memory of
59,000 and of 1,000,000 rows.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s1.curation import facility
from s1.curation.diversity import METHODS, select

Row = dict[str, Any]

LARGE = ("facility_location", "k_center")  # what runs on many rows
MIN_VALUE_RATIO, MIN_SHARDED_VALUE_RATIO = 0.995, 0.99
MAX_SECONDS = {(59_000, "facility_location"): 60, (59_000, "k_center"): 10} | {(1_000_000, name): 900 for name in LARGE}
MAX_PEAK_GB = {59_000: 1.0, 1_000_000: 4.0}  # of the rows that a run has; all rows are in memory


def embeddings(num_rows: int, dimensions: int = 384, num_clusters: int = 200) -> NDArray[np.float32]:
    """Unit vectors in overlapping clusters, made in blocks: no copy of the whole."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(num_clusters, dimensions)).astype(np.float32)
    points = np.empty((num_rows, dimensions), dtype=np.float32)
    for start in range(0, num_rows, 8192):
        block = points[start : start + 8192]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= 1.2
        block += centers[rng.integers(num_clusters, size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
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
        if how == "exact":
            facility.SAMPLE_ROWS, facility.TABLE_BYTES = num_rows, 4 * num_rows**2
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


def alone(*arguments: Any) -> Row:
    """`measured` in a process of its own, so that peaks do not mix."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: Row = pool.apply(measured, arguments)
    print(json.dumps(result), flush=True)
    return result


def plain(num_rows: int, size: int, methods: Sequence[str]) -> list[str]:
    """Every method alone; bounds that are missed."""
    runs = [alone(name, num_rows, size, "ours") for name in methods]
    missed: list[str] = []
    for run in runs:
        if run["method"] not in LARGE or num_rows not in MAX_PEAK_GB:
            continue
        name, seconds, peak_gb = f"{run['method']}, {num_rows} rows", run["seconds"], run["peak_gb"]
        if peak_gb > MAX_PEAK_GB[num_rows]:
            missed.append(f"{name}: {peak_gb} GB, at most {MAX_PEAK_GB[num_rows]}")
        if seconds > (most := MAX_SECONDS.get((num_rows, run["method"]), seconds)):
            missed.append(f"{name}: {seconds} s, at most {most}")
    return missed


def compared(num_rows: int, size: int, others: Sequence[str]) -> list[str]:
    """Facility location beside other ways to do it; bounds that are missed."""
    runs = {how: alone("facility_location", num_rows, size, how) for how in ("ours", *others)}
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
    missed = plain(59_000, size, LARGE)
    if importlib.util.find_spec("apricot") is None:
        print("left out: the lazy greedy of apricot-select (pip install apricot-select)", file=sys.stderr)
    else:
        missed += compared(8_000, size, ("apricot",))
    missed += compared(20_000, size, ("sampled", "exact"))
    missed += on_shards(59_000, size, 2, LARGE)
    return missed + plain(1_000_000, size, LARGE)


def sharded(name: str, num_rows: int, size: int, shards: int) -> Row:
    """The same selection as a job on FEATURES, in one process and on shards."""
    import pyarrow as pa

    from jobs.ray_session import ray_session
    from jobs.runner import execute
    from jobs.select import JOB, SelectOptions
    from s1 import schema
    from s1.artifacts import Artifact, Manifest

    points = embeddings(num_rows)
    with tempfile.TemporaryDirectory() as folder, ray_session():
        run_dir = str(Path(folder))
        with Artifact(f"{run_dir}/features").staging() as staging:
            for part, start in enumerate(range(0, num_rows, 10_000)):
                block = points[start : start + 10_000]
                rows = [{"question_id": f"{start + at}", "quality_issues": []} for at in range(len(block))]
                table = schema.to_table([{**row, "trace_tokens": 1} for row in rows], schema.FEATURES)
                column = pa.ListArray.from_arrays(
                    np.arange(0, block.size + 1, block.shape[1], dtype=np.int32), block.reshape(-1)
                )
                place = schema.FEATURES.get_field_index("embedding")
                table = table.set_column(place, schema.FEATURES.field("embedding"), column.cast(pa.list_(pa.float32())))
                staging.write_table(table, f"part-{part:05d}.parquet")
            staging.commit(Manifest("featurize", "f" * 16, {}, {}, "0", num_rows, num_rows))
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
    options = parser.parse_args()
    one = options.rows or options.methods or options.against_greedy or options.peer or options.shards
    missed = [] if one else everything(options.size)
    for num_rows in (options.rows or [59_000]) if one else ():
        if options.shards:
            missed += on_shards(num_rows, options.size, options.shards, options.methods or LARGE)
        elif options.against_greedy or options.peer:
            missed += compared(num_rows, options.size, ("sampled", "exact") if options.against_greedy else ("apricot",))
        else:
            missed += plain(num_rows, options.size, options.methods or METHODS)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
