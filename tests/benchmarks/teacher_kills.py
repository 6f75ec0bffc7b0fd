"""Kill a distillation at random moments, run it again, count what was paid for twice.

    python tests/benchmarks/teacher_kills.py --rounds 20
    python tests/benchmarks/teacher_kills.py --rounds 5 --kinds driver

SIGKILL goes to the driver, to a worker that holds a teacher, or to the raylet (the node's manager of Ray). The server
counts, and the ledger is read. `allowed` are the requests that may hold a permit. `in_flight` are those that had
arrived at the server and whose answer was not on disk: `at_kill` when the signal was sent, `at_end` when whoever could
have written it was gone: the worker that was killed, or the last process of the run, which outlives its driver by a
moment and goes on meanwhile. `after_kill` are those that arrived in between: permits granted before anybody could know
of the driver's death, which are none once its lease is over. `at_server` are those that the server had in its hands at
the kill. Prints one JSON object a round and a summary for every kind; exit code 1 when a rule was broken: after the
rerun the table is complete and no row is there twice; no more requests are paid for twice than were in flight at the
kill and arrived after it, nor than were in flight at the end, and never were that more than are allowed; no request
arrives later than the lease, and a second for its way, after the driver's end; and half a minute after it no process
of that run is left. The run's processes are found by a mark in their environment, wherever they hang in the tree. A
round ends as soon as there are none.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from teacher_server import Reply, TeacherServer, completion, teaching

from actors.rate_limiter import DRIVER_LEASE_S
from s1.teachers.ledger import Ledger

KINDS = ("driver", "worker", "raylet")
QUIET_AFTER_S = DRIVER_LEASE_S + 1.0
LEFT_AFTER_S = 30.0
COUNTS = ("at_server", "at_kill", "after_kill", "at_end", "allowed")
MARK = "S1_KILLED_ROUND"
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class SlowTeacher:
    """The server's script; remembers when requests arrived."""

    def __init__(self, mean_s: float, seed: int) -> None:
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self._mean_s = mean_s
        self.arrived: list[float] = []

    def __call__(self, question: str, count: int) -> Reply:
        with self._lock:
            self.arrived.append(time.monotonic())
            latency = self._draw.lognormvariate(0, 0.6) * self._mean_s
        time.sleep(latency)
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
    arguments = (part for name, value in flags.items() for part in (f"--{name}", str(value)))
    return [sys.executable, "-m", "jobs.distill", *arguments]


def collected(folder: Path, num_questions: int) -> None:
    """QUESTIONS under folder/run."""
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"What is {number}?"}) for number in range(num_questions)))
    flags = ["--run-dir", str(folder / "run"), "--source", "files", "--path", str(path), "--num-test", "0"]
    subprocess.run([sys.executable, "-m", "jobs.collect", *flags], check=True, **SILENT)


def family(mark: str) -> list[psutil.Process]:
    """All living processes of the run with this mark, also those that have lost their parent."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            # A container may have nobody who buries the dead.
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def target(kind: str, driver: psutil.Process, mark: str) -> psutil.Process:
    if kind == "driver":
        return driver
    for process in family(mark):
        try:
            name, titles = process.name(), process.cmdline()
        except psutil.NoSuchProcess:  # it has just ended
            continue
        if name == "raylet" if kind == "raylet" else any("TeacherWorker" in title for title in titles):
            return process
    raise RuntimeError(f"no {kind} to kill")


def ended(driver: subprocess.Popen[Any], timeout_s: float) -> bool:
    """Wait for the driver; False when it had to be killed."""
    try:
        driver.wait(timeout_s)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()
        return False
    return True


def gone(mark: str, timeout_s: float) -> list[str]:
    """Wait until no process of the run is left; the names of those that are, which are killed then."""
    end = time.monotonic() + timeout_s
    while (left := family(mark)) and time.monotonic() < end:
        time.sleep(0.25)
    names = [" ".join(process.cmdline())[:80] or process.name() for process in left if process.is_running()]
    for process in left:
        process.kill()
    return names


def arrived_and_in_flight(server: TeacherServer, folder: Path) -> tuple[int, int]:
    """Requests of a first run that have arrived, and those of them whose answer is not on disk: all of its questions
    are others.
    """
    ledger = Ledger(str(folder / "run" / "_ledger"))
    ledger.refresh()  # first: what is recorded meanwhile counts as in flight, not the other way round
    arrived = server.asked.total()
    return arrived, arrived - len(ledger)


def one_round(kind: str, seed: int, questions: Path, options: argparse.Namespace) -> dict[str, Any]:
    draw, script, mark = random.Random(seed), SlowTeacher(options.mean_s, seed), uuid.uuid4().hex
    started = time.monotonic()
    with teaching(script) as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(questions / "run", folder / "run")
        arguments = command(folder, server.base_url, options.concurrency)
        driver = subprocess.Popen(arguments, **SILENT, env={**os.environ, MARK: mark})
        assert server.wait_for(draw.randrange(2, options.questions - options.concurrency), timeout_s=300)
        time.sleep(draw.random() * options.mean_s)
        os.kill(target(kind, psutil.Process(driver.pid), mark).pid, signal.SIGKILL)
        (arrived, at_kill), at_server = arrived_and_in_flight(server, folder), server.under_way
        paid_before = server.paid.total()
        if kind == "worker":  # what it had sent is there by then, and the next one takes longer to begin
            time.sleep(0.5)
            arrived_in_all, at_end = arrived_and_in_flight(server, folder)
        hung = not ended(driver, 180)
        ended_at = time.monotonic()
        left = gone(mark, LEFT_AFTER_S)
        gone_after_s = time.monotonic() - ended_at
        # Nobody is left who could send anything: what has arrived by now is all.
        if kind != "worker":
            arrived_in_all, at_end = arrived_and_in_flight(server, folder)
        late = sum(at > ended_at + QUIET_AFTER_S for at in script.arrived)
        last_request_s = round(max(script.arrived) - ended_at, 1)
        returncode = driver.returncode
        if returncode != 0:
            subprocess.run(arguments, check=True, **SILENT, timeout=600)
        return {
            "kind": kind,
            "seed": seed,
            "paid_at_kill": paid_before,
            "at_server": at_server,
            "at_kill": at_kill,
            "after_kill": arrived_in_all - arrived,
            "at_end": at_end,
            "allowed": options.concurrency,
            "paid_twice": server.paid.total() - options.questions,
            "late_requests": late,
            "last_request_s": last_request_s,
            "processes_left": left,
            "gone_after_s": round(gone_after_s, 1),
            "hung": hung,
            "exit_code": returncode,
            "table": _table(folder, server, options.questions),
            "seconds": round(time.monotonic() - started, 1),
        }


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
        and found["paid_twice"] <= found["at_kill"] + found["after_kill"]
        and found["paid_twice"] <= found["at_end"] <= found["allowed"]
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
    parser.add_argument("--together", type=int, default=2, help="rounds at a time, each with a Ray of its own")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in options.kinds}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.together) as pool:
        collected(Path(name), options.questions)
        asked = [
            pool.submit(one_round, kind, seed, Path(name), options)
            for seed in range(options.seed, options.seed + options.rounds)
            for kind in options.kinds
        ]
        for round_ in as_completed(asked):
            found = round_.result()
            rounds[found["kind"]].append(found)
            print(json.dumps(found), flush=True)
    for kind, found in rounds.items():
        summary = {
            "kind": kind,
            "rounds": len(found),
            "good": sum(map(is_good, found)),
            "paid_twice": sum(each["paid_twice"] for each in found),
            "beyond_at_kill": sum(max(0, each["paid_twice"] - each["at_kill"]) for each in found),
            **{name: sum(each[name] for each in found) for name in COUNTS},
            "paid": options.questions * len(found),
            "last_request_s": max(each["last_request_s"] for each in found),
            "gone_after_s": max(each["gone_after_s"] for each in found),
        }
        print(json.dumps(summary), flush=True)
    raise SystemExit(0 if all(is_good(each) for found in rounds.values() for each in found) else 1)


if __name__ == "__main__":
    main()
