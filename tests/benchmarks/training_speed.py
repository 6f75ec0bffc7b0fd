"""Tokens per second and memory of the real training job on this machine.

    python tests/benchmarks/training_speed.py --steps 6 -- --micro-batch-size 8

Writes a selection of worked products into a temporary run folder, runs `jobs.train` on it and prints one JSON object.
What follows `--` goes to the job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.hashing import question_id


def row(number: int, rng: random.Random) -> dict[str, object]:
    """A product of two-digit numbers, worked in two partial products; a third of them checked the other way round."""
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    lines = partial_products(a, b)
    if rng.random() < 1 / 3:
        lines += ["Wait, the other way round:", *partial_products(b, a)]
    question = f"What is {a} x {b}? Give only the result. ({number})"
    return {
        "question_id": question_id(question),
        "question": question,
        "thinking": "\n".join(lines),
        "attempt": str(a * b),
        "pick_order": number,
    }


def partial_products(a: int, b: int) -> list[str]:
    tens, ones = a * (b // 10 * 10), a * (b % 10)
    return [f"{a} x {b // 10 * 10} = {tens}", f"{a} x {b % 10} = {ones}", f"{tens} + {ones} = {a * b}"]


def run(command: list[str]) -> tuple[float, float]:
    """Seconds that `command` takes and the largest resident memory, in GiB, that one of its processes reached."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    family = psutil.Process(process.pid)
    while process.poll() is None:
        for member in [family, *children(family)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, member.memory_info().rss)
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - started, peak / 2**30


def children(family: psutil.Process) -> list[psutil.Process]:
    try:
        return family.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("options", nargs="*", help="after --: options of jobs.train")
    given = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        table = schema.to_table([row(number, rng) for number in range(given.rows)], schema.SELECTION)
        with Artifact(f"{folder}/selection").staging() as staging:
            staging.write_table(table)
            staging.commit(Manifest("select", "0" * 16, {}, {}, "", rows_in=given.rows, rows_out=given.rows))
        command = [sys.executable, "-m", "jobs.train", "--run-dir", folder, "--max-steps", str(given.steps)]
        seconds, peak_gib = run([*command, *given.options])
        records = json.loads((Path(folder) / "checkpoint" / "loss.json").read_text())
    # The first step pays for first calls and page faults.
    speeds = [record["tokens"] / record["seconds"] for record in records[1:]]
    result = {
        "steps": len(records),
        "tokens_per_step": round(statistics.mean(record["tokens"] for record in records)),
        "tokens_per_s": round(statistics.mean(speeds)),
        "seconds_per_step": round(statistics.mean(record["seconds"] for record in records[1:]), 2),
        "peak_gib_of_worker": round(peak_gib, 2),
        "seconds_around": round(seconds - sum(record["seconds"] for record in records), 1),
        "options": given.options,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
