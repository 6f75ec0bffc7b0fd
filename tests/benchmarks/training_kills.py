"""Random SIGKILLs of workers, nodes and the driver: the training goes on and ends where an undisturbed one does.

    python tests/benchmarks/training_kills.py
    python tests/benchmarks/training_kills.py --kills 1 --steps 60

Runs the real job with two workers (ZeRO-3) on a Ray cluster of two nodes on this machine and, within one training,
kills each kind so many times, in random order and at random moments: a worker, a node with everything on it, or the
driver, which is then started again with the same command. The next kill comes when the job has said at which step its
new workers begin and has committed a checkpoint again. Prints one JSON object. Exit code 1 when a bound is missed,
which is said on stderr: all workers that begin after a kill begin behind the last step that was committed before it,
and the final loss is within 1e-3 of the undisturbed one. With `--elastic` a lost node comes back only when the next
one goes: the training goes on with one worker, and takes a second one if it is there when workers start again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "training"))

from process_tree import below
from training_cases import write_model, write_selection

KINDS = ("worker", "node", "driver")
MAX_DIFFERENCE = 1e-3
# No measurement: only to end when the training hangs.
MAX_WAIT_S = 900
# By then the job has said where workers began that have committed a step; it looks for news every second.
NEWS_INTERVAL_S = 1.5
# A kill waits for the next checkpoint, and takes some more steps to come.
STEPS_PER_KILL = 14
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}

Row = dict[str, Any]


def command(folder: Path, model: Path, steps: int, min_workers: int) -> list[str]:
    options = {
        "run-dir": str(folder),
        "model": str(model),
        "batch-size": 4,
        "micro-batch-size": 2,
        "epochs": 1000,
        "max-steps": steps,
        "learning-rate": 1e-3,
        "block-size": 256,
        "lora-rank": 0,
        "precision": "fp32",
        "zero-stage": 3,
        "workers": 2,
        "min-workers": min_workers,
        "threads-per-worker": 1,
        "save-steps": 5,
        "max-failures": 1000,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "jobs.train", "--no-packing", *given]


def workers() -> list[psutil.Process]:
    """Training workers of our own cluster."""
    return below("RayTrainWorker")


def loss(folder: Path) -> float:
    return json.loads((folder / "checkpoint" / "loss.json").read_text())[-1]["loss"]


class Training:
    """The job in a process of its own, started again when it was killed; all attempts write into one log."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder, self.arguments = folder, arguments
        self.log = folder / "train.log"
        self._committed = 0
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.arguments, stdout=file, stderr=file)

    def kill(self) -> None:
        self.process.kill()
        if self.process.wait() != -signal.SIGKILL:
            self.fail("the training ended before its driver was killed")

    def finish(self) -> None:
        if self.process.wait():
            self.fail(f"the training failed with code {self.process.returncode}")

    def fail(self, reason: str) -> None:
        self.process.kill()
        raise SystemExit(f"{reason}; its log ends with:\n{self.log.read_text()[-3000:]}")

    def committed(self) -> int:
        """The last step whose checkpoint is committed; what was read before, while the list is written or removed."""
        found = [self._committed]
        for snapshot in self.folder.glob("_scratch/*/workers/checkpoint_manager_snapshot.json"):
            with contextlib.suppress(ValueError, FileNotFoundError):
                results = json.loads(snapshot.read_text())["checkpoint_results"]
                found += [int(result["checkpoint_dir_name"].removeprefix("step-")) for result in results]
        self._committed = max(found)
        return self._committed

    def starts(self) -> list[int]:
        """Steps that were done when each group of workers began, as the job says it."""
        return [int(step) - 1 for step in re.findall(r"workers begin at step (\d+) of", self.log.read_text())]

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for the training to come to `condition`; it must not end before."""
        deadline = time.monotonic() + MAX_WAIT_S
        while not condition():
            if self.process.poll() is not None:
                self.fail(f"the training ended with code {self.process.returncode} before {what}")
            if time.monotonic() > deadline:
                self.fail(f"{what}: not within {MAX_WAIT_S} s")
            time.sleep(0.1)


class Nodes:
    """Two nodes of one worker each, beside a head that holds none: it cannot be lost without the cluster."""

    def __init__(self, *, replace: bool) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.replace = replace  # at once; else when the next one is lost
        self.alive = [self.cluster.add_node(**NODE) for _ in range(2)]

    def __enter__(self) -> Nodes:
        os.environ["RAY_ADDRESS"] = self.cluster.address
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()

    def lose_one(self, rng: random.Random) -> None:
        """Kill a node on which a worker runs."""
        raylets = {worker.ppid() for worker in workers()}
        lost = rng.choice([node for node in self.alive if node.all_processes["raylet"][0].process.pid in raylets])
        if len(self.alive) < 2:
            self.alive.append(self.cluster.add_node(**NODE))
        self.alive.remove(lost)
        self.cluster.remove_node(lost, allow_graceful=False)
        if self.replace:
            self.alive.append(self.cluster.add_node(**NODE))


def kill(kind: str, training: Training, nodes: Nodes, rng: random.Random) -> Row:
    """Kill one of `kind` at a random moment after the next checkpoint, and wait for workers to begin again."""
    reached = max(training.starts(), default=0)
    training.wait_until(lambda: training.committed() > reached, f"a step after {reached} was committed")
    time.sleep(NEWS_INTERVAL_S + rng.random())
    training.wait_until(lambda: bool(workers()), "there was a worker")
    before, at, num_starts = workers(), training.committed(), len(training.starts())
    if kind == "worker":
        rng.choice(before).send_signal(signal.SIGKILL)  # NoSuchProcess: there was none to kill
    elif kind == "node":
        nodes.lose_one(rng)
    else:
        training.kill()
        training.start()
    training.wait_until(lambda: len(training.starts()) > num_starts, f"workers began again after a {kind} was killed")
    if not any(is_gone(process) for process in before):
        training.fail(f"the kill of a {kind} hit no worker")
    print(f"killed a {kind} after step {at}; began after {training.starts()[num_starts]}", file=sys.stderr)
    return {"kind": kind, "committed": at, "starts_before": num_starts}


def is_gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def missed_bounds(kills: list[Row], starts: list[int], final: float, undisturbed: float) -> list[str]:
    """What a training that lost nothing would not show."""
    missed: list[str] = []
    for done in kills:
        later = starts[done["starts_before"] :]
        if not later or min(later) < done["committed"]:
            rule = f"at least {done['committed']}, which were committed when a {done['kind']} was killed"
            missed.append(f"workers began after {min(later, default=None)} steps, {rule}")
    if abs(final - undisturbed) > MAX_DIFFERENCE:
        missed.append(f"final loss {final}, at most {MAX_DIFFERENCE} from {undisturbed} of the undisturbed training")
    return missed


def disturbed(training: Training, nodes: Nodes, kinds: list[str], rng: random.Random) -> Row:
    """The training to its end, through a kill of each of `kinds`."""
    kills = [kill(kind, training, nodes, rng) for kind in kinds]
    training.finish()
    return {"kills": kills, "starts": training.starts()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--steps", type=int, help=f"of the training; default: {STEPS_PER_KILL} for every kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elastic", action="store_true")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    kinds = [*KINDS] * given.kills
    steps = given.steps or STEPS_PER_KILL * len(kinds)
    rng.shuffle(kinds)
    with tempfile.TemporaryDirectory() as name, Nodes(replace=not given.elastic) as nodes:
        folder = Path(name)
        model = write_model(folder / "model")
        arguments: dict[str, list[str]] = {}
        for run in ("disturbed", "undisturbed"):
            write_selection(folder / run, 64)
            arguments[run] = command(folder / run, model, steps, 1 if given.elastic else 2)
        started = time.monotonic()
        training = Training(folder / "disturbed", arguments["disturbed"])
        found = disturbed(training, nodes, kinds, rng)
        seconds = time.monotonic() - started
        Training(folder / "undisturbed", arguments["undisturbed"]).finish()
        final, undisturbed = loss(folder / "disturbed"), loss(folder / "undisturbed")
    result = {**found, "steps": steps, "seconds": round(seconds), "final_loss": final, "undisturbed": undisturbed}
    print(json.dumps({**result, "difference": abs(final - undisturbed)}))
    missed = missed_bounds(found["kills"], found["starts"], final, undisturbed)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
