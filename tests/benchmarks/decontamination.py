"""Decontamination: seconds, memory, verdicts, near copies found.

    python tests/benchmarks/decontamination.py --data ../shared/data

The questions are those of the data folder (its MANIFEST.md names their sources), filled up to --rows with splices of
two of them; the test side are MATH500, AIME24, AMC23 and a part of GSM8K. The peer is the
reference's way: an index of the n-grams of all questions. Each side runs in a process of its own; memory is what it
adds to the questions. Then, against MATH500: how many of the 36 near copies of a third-party audit are found in each
mode, and which share of the published s1K outside of the audit's list is flagged beside them. Exit code 1 when a bound
is missed, which is said on stderr: 3 s, 150 MB, the verdicts of the reference, and 34
near copies found when normalised.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

from s1.curation.decontaminate import contaminated, normalised_words, words

MAX_SECONDS, MAX_ADDED_MB, MIN_NEAR_COPIES = 3.0, 150, 34
MODES = (  # ngram, normalise, coverage
    (8, False, 0.0),
    (8, True, 0.0),
    (10, True, 0.0),
    (13, True, 0.0),
    (8, True, 0.2),
    (8, True, 0.3),
    (8, True, 0.5),
)


def questions_of(path: Path) -> list[str]:
    """The questions of one file, whatever its form."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    rows: list[dict[str, Any]] = (
        json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    )
    return [str(row.get("question") or row.get("problem")) for row in rows]


def corpus(data: Path, num_rows: int, num_tests: int) -> tuple[list[str], list[str]]:
    """(questions, test questions)."""
    folder = data / "questions"
    names = ("math500.json", "aime24.jsonl", "amc23.jsonl", "gsm8k_test.jsonl")
    tests = [question for name in names for question in questions_of(folder / name)][:num_tests]
    names = ("math_train_nosol.json.gz", "gsm8k_train.jsonl.gz", "aime_1983_2023.json", "agieval_lsat-lr.jsonl")
    real = [question for name in names for question in questions_of(folder / name)]
    real += questions_of(data / "s1" / "s1K_questions_solutions_noGPQA.jsonl")
    draw = random.Random(0)
    made = list(real)
    while len(made) < num_rows:
        left, right = draw.choice(real), draw.choice(real)
        made.append(left[: len(left) // 2] + right[len(right) // 2 :])
    return made[:num_rows], tests


def reference(questions: list[str], tests: list[str], ngram: int, normalise: bool) -> list[bool]:
    """The straightforward way: index all questions, look every n-gram of a test question up."""
    split = normalised_words if normalise else words
    index: dict[str, set[int]] = {}
    for at, text in enumerate(questions):
        parts = split(text)
        for start in range(len(parts) - ngram + 1):
            index.setdefault(" ".join(parts[start : start + ngram]), set()).add(at)
    hit: set[int] = set()
    for text in tests:
        parts = split(text)
        for start in range(len(parts) - ngram + 1):
            hit |= index.get(" ".join(parts[start : start + ngram]), set())
    return [at in hit for at in range(len(questions))]


def measured(how: str, data: str, num_rows: int, num_tests: int, normalise: bool) -> dict[str, Any]:
    questions, tests = corpus(Path(data), num_rows, num_tests)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    if how == "reference":
        verdicts = reference(questions, tests, 8, normalise)
    else:
        verdicts = contaminated(questions, tests, 8, normalise).tolist()
    seconds = time.monotonic() - started
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": round(seconds, 2), "added_mb": round(added / 1e3), "verdicts": verdicts}


def speed(data: Path, num_rows: int, num_tests: int, normalise: bool) -> list[str]:
    """Ours beside the reference's way; bounds that are missed."""
    results: dict[str, dict[str, Any]] = {}
    for how in ("ours", "reference"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[how] = pool.apply(measured, (how, str(data), num_rows, num_tests, normalise))
    ours, theirs = results["ours"], results["reference"]
    summary = {
        "rows": num_rows,
        "tests": num_tests,
        "normalise": normalise,
        "flagged": sum(ours["verdicts"]),
        "same_verdicts": ours["verdicts"] == theirs["verdicts"],
        **{f"{name}_{how}": results[how][name] for how in results for name in ("seconds", "added_mb")},
        "seconds_ratio": round(ours["seconds"] / theirs["seconds"], 3),
    }
    print(json.dumps(summary), flush=True)
    return missed_bounds(summary)


def missed_bounds(summary: dict[str, Any]) -> list[str]:
    """Bounds that a comparison misses."""
    missed: list[str] = []
    how = f"(normalise {summary['normalise']})"
    if summary["seconds_ours"] > MAX_SECONDS:
        missed.append(f"{summary['seconds_ours']} s, at most {MAX_SECONDS} {how}")
    if summary["added_mb_ours"] > MAX_ADDED_MB:
        missed.append(f"{summary['added_mb_ours']} MB added, at most {MAX_ADDED_MB} {how}")
    if not summary["same_verdicts"]:
        missed.append(f"other verdicts than the reference's {how}")
    return missed


def near_copies(data: Path) -> list[str]:
    """Near copies that each mode finds; bounds that are missed."""
    missed: list[str] = []
    pairs = [json.loads(line) for line in (data / "decontam" / "s1_c_lex.jsonl").read_text().splitlines()]
    tests = questions_of(data / "questions" / "math500.json")
    published = questions_of(data / "s1" / "s1K_questions_solutions_noGPQA.jsonl")
    listed = {" ".join(pair["train_problem"].split()) for pair in pairs}
    rest = [question for question in published if " ".join(question.split()) not in listed]
    for ngram, normalise, coverage in MODES:
        found = contaminated([pair["train_problem"] for pair in pairs], tests, ngram, normalise, coverage)
        flagged = contaminated(rest, tests, ngram, normalise, coverage)
        summary = {
            "ngram": ngram,
            "normalise": normalise,
            "coverage": coverage,
            "near_copies_found": f"{int(found.sum())} of {len(pairs)}",
            "flagged_of_the_rest": f"{int(flagged.sum())} of {len(rest)} ({100 * flagged.mean():.1f}%)",
        }
        print(json.dumps(summary), flush=True)
        missed += too_few_near_copies(int(found.sum()), (ngram, normalise, coverage))
    return missed


def too_few_near_copies(num_found: int, mode: tuple[int, bool, float]) -> list[str]:
    """The bound on what the normalising mode finds, when it is missed."""
    if mode != (8, True, 0.0) or num_found >= MIN_NEAR_COPIES:
        return []
    return [f"{num_found} near copies found when normalised, at least {MIN_NEAR_COPIES}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=59_000)
    parser.add_argument("--tests", type=int, default=1500)
    options = parser.parse_args()
    missed: list[str] = []
    for normalise in (False, True):
        missed += speed(options.data, options.rows, options.tests, normalise)
    missed += near_copies(options.data)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
