"""16 workers on two nodes: the real training job with gloo and ZeRO-3 on a tiny Qwen2-shaped model, to the end.

    python tests/benchmarks/training_workers.py

Starts a Ray cluster of two nodes of 8 CPUs on this machine, trains with 8 workers on each, then once more with one
worker, and prints one JSON object: where the workers were, the largest memory of all of them together (PSS: shared
pages are counted once), the peak of the fullest one after every step, and how far the two loss curves are apart. Exit
code 1 when a bound is missed, which is said on stderr: every node has its workers, all of them together take at most
0.75 GiB times their number, the fullest does not grow in the second half of the steps, and the losses are equal within
0.01%.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "training"))

from training_cases import write_model, write_selection

from jobs.runner import execute
from jobs.train import JOB
from jobs.train_options import TrainOptions
from s1.training.hardware import Hardware

MAX_GIB_PER_WORKER = 0.75
MAX_GROWTH_GIB = 0.05
MAX_DIFFERENCE = 1e-4  # of the losses, relative


class Watch(threading.Thread):
    """Looks at the training workers of this machine every few seconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.per_node: Counter[int] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(3):
            workers = [process for process in psutil.Process().children(recursive=True) if is_worker(process)]
            used = 0
            for process in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    used += process.memory_full_info().pss
            self.peak_bytes = max(self.peak_bytes, used)
            if len(workers) > sum(self.per_node.values()):
                self.per_node = Counter(process.ppid() for process in workers)  # the parent is the node's raylet


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "RayTrainWorker" in " ".join(process.cmdline())
    return False


def curve(folder: Path, options: TrainOptions) -> list[dict[str, float]]:
    """Train; the records of the steps."""
    write_selection(folder, 64)
    execute(JOB, options, str(folder))
    return json.loads((folder / "checkpoint" / "loss.json").read_text())


def missed_bounds(result: dict[str, Any], nodes: int, per_node: int) -> list[str]:
    """What is said of this many workers and does not hold."""
    missed: list[str] = []
    if result["workers_per_node"] != [per_node] * nodes:
        missed.append(f"workers per node: {result['workers_per_node']}, not {[per_node] * nodes}")
    used, most = result["peak_gib_of_all_workers"], round(nodes * per_node * MAX_GIB_PER_WORKER, 2)
    if not 0 < used <= most:
        missed.append(f"memory of all workers: {used} GiB, at most {most}")
    peaks = result["peak_gib_of_fullest_worker"]
    if (growth := round(peaks[-1] - peaks[len(peaks) // 2], 2)) > MAX_GROWTH_GIB:
        missed.append(f"memory of the fullest worker grows by {growth} GiB, at most {MAX_GROWTH_GIB}: {peaks}")
    if not (apart := result["largest_difference_from_one_worker"]) <= MAX_DIFFERENCE:
        missed.append(f"losses apart from those of one worker by {apart:.2g}, at most {MAX_DIFFERENCE}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    from ray.cluster_utils import Cluster

    from jobs.ray_session import ray_session

    workers = given.nodes * given.per_node
    node = {"num_cpus": given.per_node, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(given.nodes - 1):
        cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = TrainOptions(
            model=str(write_model(folder / "model", kind="qwen2")),
            batch_size=workers,
            epochs=2,
            max_steps=given.steps,
            learning_rate=1e-3,
            block_size=512,
            zero_stage=3,
            precision="fp32",
            workers=workers,
            threads_per_worker=1,
            save_steps=4,
            hardware=Hardware(tokens_per_s=1000),
        )
        with ray_session():
            watch.start()
            started = time.monotonic()
            many = curve(folder / "many", options)
            seconds = time.monotonic() - started
            watch.done.set()
            watch.join()
            one = curve(folder / "one", options.model_copy(update={"workers": 1}))
    cluster.shutdown()
    result = {
        "workers_per_node": sorted(watch.per_node.values()),
        "steps": len(many),
        "seconds": round(seconds),
        "peak_gib_of_all_workers": round(watch.peak_bytes / 2**30, 2),
        "peak_gib_of_fullest_worker": [record["memory_gib"] for record in many],
        "losses": [round(record["loss"], 4) for record in many],
        "largest_difference_from_one_worker": max(
            abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(many, one, strict=True)
        ),
    }
    print(json.dumps(result))
    missed = missed_bounds(result, given.nodes, given.per_node)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
