"""Random SIGKILLs of workers, nodes and the driver: the training goes on and ends where an undisturbed one does.

    python tests/benchmarks/training_kills.py --kills 10

Runs the real job with two workers (ZeRO-3) on a Ray cluster of two nodes on this machine and kills, at random moments,
a worker, a node with everything on it, or the driver, which is then started again with the same command. Prints one
JSON object; fails when a committed step is lost or the final loss is off by more than 1e-3. With `--elastic` a lost
node comes back only when the next one goes: the training goes on with one worker and takes the second one when it is
there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "training"))

from training_cases import write_model, write_selection

KINDS = ("worker", "node", "driver")


def command(folder: Path, model: Path, steps: int, min_workers: int) -> list[str]:
    options = {
        "run-dir": str(folder),
        "model": str(model),
        "batch-size": 8,
        "micro-batch-size": 2,
        "epochs": 1000,
        "max-steps": steps,
        "learning-rate": 1e-3,
        "block-size": 256,
        "precision": "fp32",
        "zero-stage": 3,
        "workers": 2,
        "min-workers": min_workers,
        "threads-per-worker": 1,
        "save-steps": 5,
        "max-failures": 1000,
    }
    return [sys.executable, "-m", "jobs.train", *(f"--{name}={value}" for name, value in options.items())]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, stderr=subprocess.DEVNULL)


def committed(folder: Path) -> int:
    """The last step whose checkpoint is committed."""
    found = [0]
    for snapshot in folder.glob("_scratch/*/workers/checkpoint_manager_snapshot.json"):
        with contextlib.suppress(ValueError):  # while it is written
            results = json.loads(snapshot.read_text())["checkpoint_results"]
            found += [int(result["checkpoint_dir_name"].removeprefix("step-")) for result in results]
    return max(found)


def workers() -> list[psutil.Process]:
    """Training workers of our own cluster."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def loss(folder: Path) -> float:
    return json.loads((folder / "checkpoint" / "loss.json").read_text())[-1]["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elastic", action="store_true")
    given = parser.parse_args()
    fewest = 1 if given.elastic else 2
    from ray.cluster_utils import Cluster

    rng = random.Random(given.seed)
    # The head holds no worker: it cannot be lost without the cluster.
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False},
    )
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    nodes = [cluster.add_node(**node) for _ in range(2)]
    os.environ["RAY_ADDRESS"] = cluster.address
    done: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model")
        write_selection(folder / "disturbed", 64)
        write_selection(folder / "undisturbed", 64)
        arguments = command(folder / "disturbed", model, given.steps, fewest)
        process = start(arguments)
        at = 0
        for number in range(given.kills):
            # Kinds take turns; each waits for one more checkpoint, so that the training comes forward.
            kind = KINDS[number % len(KINDS)]
            while committed(folder / "disturbed") <= at or not workers():
                if process.poll() is not None:
                    raise SystemExit(f"the training ended after {number} kills (code {process.returncode})")
                time.sleep(0.1)
            time.sleep(rng.random())
            at = committed(folder / "disturbed")
            if kind == "worker":
                victims = workers()
                if victims:
                    rng.choice(victims).send_signal(signal.SIGKILL)
            elif kind == "node":
                if len(nodes) < 2:
                    nodes.append(cluster.add_node(**node))
                cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
                if not given.elastic:
                    nodes.append(cluster.add_node(**node))
            else:
                process.kill()
                process.wait()
                process = start(arguments)
            done.append({"kind": kind, "committed": at})
            print(f"killed a {kind} after committed step {at}", file=sys.stderr)
            lost = committed(folder / "disturbed") < at
            if lost:
                raise SystemExit(f"step {at} was committed and is lost")
        if process.wait():
            raise SystemExit(f"the training failed with code {process.returncode}")
        subprocess.run(
            command(folder / "undisturbed", model, given.steps, fewest), check=True, stderr=subprocess.DEVNULL
        )
        final, expected = loss(folder / "disturbed"), loss(folder / "undisturbed")
    cluster.shutdown()
    result = {"kills": done, "steps": given.steps, "final_loss": final, "undisturbed": expected}
    print(json.dumps({**result, "difference": abs(final - expected)}))
    if abs(final - expected) > 1e-3:
        raise SystemExit("the final losses differ by more than 1e-3")


if __name__ == "__main__":
    main()
