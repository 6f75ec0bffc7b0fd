"""Kill a distillation at random moments, run it again, count what was paid for twice.

    python tests/benchmarks/teacher_kills.py --rounds 20
    python tests/benchmarks/teacher_kills.py --rounds 5 --kinds driver

SIGKILL goes to the driver, to a worker that holds a teacher, or to the raylet (the node's manager of Ray). The server
counts. Prints one JSON object a round and a summary for every kind; exit code 1 when a rule was broken: after the rerun
the table is complete and no row is there twice, no more requests are paid for twice than were under way at the kill, no
request arrives later than ten seconds after the driver died, and no process of that run is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from teacher_server import Reply, TeacherServer, completion, teaching

KINDS = ("driver", "worker", "raylet")
QUIET_AFTER_S = 10.0


class SlowTeacher:
    """The server's script; remembers when requests arrived and when the last answers were given."""

    def __init__(self, mean_s: float, seed: int) -> None:
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self._mean_s = mean_s
        self.arrived: list[float] = []
        self.answered: list[float] = []

    def __call__(self, question: str, count: int) -> Reply:
        with self._lock:
            self.arrived.append(time.monotonic())
            latency = self._draw.lognormvariate(0, 0.6) * self._mean_s
        time.sleep(latency)
        with self._lock:
            self.answered.append(time.monotonic())
        return completion("hm", "7")


def command(folder: Path, base_url: str, concurrency: int) -> list[str]:
    flags = {
        "run-dir": folder / "run",
        "teacher": "openai",
        "openai.model": "m",
        "openai.base-url": base_url,
        "openai.limits.max-concurrency": concurrency,
        "pool.concurrency": 2 * concurrency,
        "pool.num-cpus": 0.1,
    }
    return [
        sys.executable,
        "-m",
        "jobs.distill",
        *(part for name, v in flags.items() for part in (f"--{name}", str(v))),
    ]


def target(kind: str, driver: psutil.Process) -> psutil.Process:
    if kind == "driver":
        return driver
    for child in driver.children(recursive=True):
        try:
            name, titles = child.name(), child.cmdline()
        except psutil.NoSuchProcess:  # it has just ended
            continue
        if name == "raylet" if kind == "raylet" else any("TeacherWorker" in title for title in titles):
            return child
    raise RuntimeError(f"no {kind} to kill")


def one_round(kind: str, seed: int, num_questions: int, concurrency: int, mean_s: float) -> dict[str, Any]:
    draw, script = random.Random(seed), SlowTeacher(mean_s, seed)
    with teaching(script) as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (json.dumps({"question": f"What is {number}?"}) for number in range(num_questions))
        (folder / "questions.jsonl").write_text("\n".join(lines))
        run = [
            "--run-dir",
            str(folder / "run"),
            "--source",
            "files",
            "--path",
            str(folder / "questions.jsonl"),
            "--num-test",
            "0",
        ]
        subprocess.run([sys.executable, "-m", "jobs.collect", *run], check=True, stderr=subprocess.DEVNULL)
        arguments = command(folder, server.base_url, concurrency)
        driver = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        found = psutil.Process(driver.pid)
        assert server.wait_for(draw.randrange(2, num_questions - concurrency), timeout_s=120)
        time.sleep(draw.random() * mean_s)
        family = [found, *found.children(recursive=True)]
        os.kill(target(kind, found).pid, signal.SIGKILL)
        killed_at = time.monotonic()
        # What the server has in its hands, and what it has just answered and may not be on disk yet.
        under_way = server.under_way + sum(at > killed_at - 0.25 for at in script.answered)
        paid_before = server.paid.total()
        hung = False
        try:
            driver.wait(timeout=120)
        except subprocess.TimeoutExpired:
            hung = True
            driver.kill()
            driver.wait()
        late = 0
        if kind != "worker":
            ended_at = time.monotonic() if kind == "raylet" else killed_at
            time.sleep(QUIET_AFTER_S + 2)
            late = sum(at > ended_at + QUIET_AFTER_S for at in script.arrived)
        left = _running(psutil.wait_procs(family, timeout=20)[1])
        names_left = [process.name() for process in left]
        for process in left:
            process.kill()
        returncode = driver.returncode
        if returncode != 0:
            subprocess.run(arguments, check=True, stderr=subprocess.DEVNULL, timeout=300)
        return {
            "kind": kind,
            "seed": seed,
            "paid_at_kill": paid_before,
            "under_way": under_way,
            "paid_twice": server.paid.total() - num_questions,
            "late_requests": late,
            "processes_left": names_left,
            "hung": hung,
            "exit_code": returncode,
            "table": _table(folder, server, num_questions),
        }


def _running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are not dead: a container may have nobody who buries the others."""
    alive: list[psutil.Process] = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def _table(folder: Path, server: TeacherServer, num_questions: int) -> str:
    """complete, or what is wrong with it."""
    parts = sorted((folder / "run" / "traces").glob("*.parquet"))
    ids = [key for part in parts for key in pq.read_table(part, columns=["question_id"])["question_id"].to_pylist()]
    if len(set(ids)) != len(ids):
        return f"{len(ids) - len(set(ids))} rows twice"
    return "complete" if len(ids) == num_questions == len(server.paid) else f"{len(ids)} of {num_questions} rows"


def is_good(found: dict[str, Any]) -> bool:
    return (
        found["table"] == "complete"
        and found["paid_twice"] <= found["under_way"]
        and not (found["late_requests"] or found["processes_left"] or found["hung"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--mean-s", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in options.kinds}
    for seed in range(options.seed, options.seed + options.rounds):
        for kind, found in rounds.items():
            found.append(one_round(kind, seed, options.questions, options.concurrency, options.mean_s))
            print(json.dumps(found[-1]), flush=True)
    for kind, found in rounds.items():
        summary = {
            "kind": kind,
            "rounds": len(found),
            "good": sum(map(is_good, found)),
            "paid_twice": sum(each["paid_twice"] for each in found),
            "under_way": sum(each["under_way"] for each in found),
            "paid": options.questions * len(found),
        }
        print(json.dumps(summary), flush=True)
    raise SystemExit(0 if all(is_good(each) for found in rounds.values() for each in found) else 1)


if __name__ == "__main__":
    main()
