"""Memory and time of a whole curation: collect, distill with recorded traces, featurize, select.

    python tests/benchmarks/curation_memory.py --data ../shared/data --rows 59000 --words 1000

The questions are those of the data folder, filled up to --rows with splices of two of them; a trace is --words words of
other questions around the answer, at random between half and twice as long. The test sets are MATH500 and AIME24. No
solver is asked. The jobs run as a user runs them, one after the other on a local Ray; memory is the sum over the whole
tree of processes, Ray's own among them, of proportional set sizes (shared pages are counted once). Prints one JSON
object a job and one for all. Exit code 1 when a job needs more than 6 GB.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from decontamination import corpus

sys.path.insert(0, str(Path(__file__).parents[1]))
from process_tree import watched

MAX_PEAK_GB = 6.0
ENCODER, STUDENT = "embedded:minilm", "embedded:smollm2-135m-instruct"


def write_inputs(folder: Path, data: Path, num_rows: int, num_words: int) -> None:
    """questions.jsonl and traces.jsonl."""
    questions, _ = corpus(data, num_rows, 0)
    draw = random.Random(1)
    words = [word for text in questions[:20_000] for word in text.split()]
    with (folder / "questions.jsonl").open("w") as asked, (folder / "traces.jsonl").open("w") as traced:
        for at, question in enumerate(questions):
            answer = str(draw.randrange(10_000))
            start, count = draw.randrange(len(words)), int(num_words * draw.uniform(0.5, 2))
            thinking = " ".join(words[start : start + count])
            attempt = f"We find it step by step. The final answer is \\boxed{{{answer}}}."
            row = {"question": f"{question} ({at})", "answer": answer}
            asked.write(json.dumps(row) + "\n")
            traced.write(json.dumps({**row, "thinking": thinking, "attempt": attempt}) + "\n")


def commands(folder: Path, data: Path, size: int) -> dict[str, list[str]]:
    """The command line of every job."""
    run_dir = ["--run-dir", str(folder / "run")]
    tests = [str(data / "questions" / name) for name in ("math500.json", "aime24.jsonl")]
    arguments = {
        "collect": ["--source", "files", "--path", str(folder / "questions.jsonl"), "--num-test", "0"],
        "distill": ["--teacher", "recorded", "--recorded.path", str(folder / "traces.jsonl")],
        "featurize": ["--solver.models", "--test-sets", *tests, "--domains.method", "nearest", "--grader-workers", "2"],
        "select": ["--size", str(size), "--method", "facility_location", "--ignore-issues", "trace_contaminated"],
    }
    return {name: [sys.executable, "-m", f"jobs.{name}", *run_dir, *extra] for name, extra in arguments.items()}


def missed_bounds(results: dict[str, dict[str, Any]]) -> list[str]:
    """Jobs that need more memory than they may."""
    peaks = {job: result["peak_gb"] for job, result in results.items()}
    return [f"{job}: {peak} GB, at most {MAX_PEAK_GB}" for job, peak in peaks.items() if peak > MAX_PEAK_GB]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=59_000)
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options.data.absolute(), options.rows, options.words)
        results: dict[str, dict[str, Any]] = {}
        for job, command in commands(folder, options.data.absolute(), options.size).items():
            seconds, peak = watched(command, lambda line, _: print(line, file=sys.stderr))
            results[job] = {"seconds": round(seconds, 1), "peak_gb": round(peak / 1e9, 2)}
            print(json.dumps({"job": job, **results[job]}), flush=True)
        summary = {
            "rows": options.rows,
            "words": options.words,
            "seconds": round(sum(result["seconds"] for result in results.values()), 1),
            "peak_gb": max(result["peak_gb"] for result in results.values()),
        }
        print(json.dumps(summary), flush=True)
    missed = missed_bounds(results)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
