"""Grading: share of right verdicts on collected cases, seconds for hostile answers, answers per second.

    python tests/benchmarks/grading.py --data ../shared/data

The cases are those of the data folder's `grader` (its MANIFEST.md names the sources). The peer is math-verify alone, in
the same killable worker. Prints one JSON object a line; with --wrong also every case whose verdict is wrong.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from s1.grading import equivalent, workers

HOSTILE = {
    "tower of powers": "2^{2^{2^{2^{2^{2^{9}}}}}}",
    "tower without braces": "9^9^9^9^9^9",
    "tower in a box": "\\boxed{9^{9^{9^{9^{9}}}}}",
    "nested factorials": "\\boxed{((((9!)!)!)!)!}",
    "huge sum": "\\boxed{\\sum_{n=1}^{10^{100}} n!}",
    "huge product": "$\\prod_{k=1}^{10^{9}} (x+k)$",
    "huge binomial": "$\\binom{10^{9}}{5 \\cdot 10^{8}}$",
    "deep brackets": "(" * 5_000 + "1" + ")" * 5_000,
    "open brackets, 3 MB": "(" * 3_000_000,
    "open braces, 3 MB": "{" * 3_000_000,
    "open boxes, 1 MB": "\\boxed{" * 150_000,
    "nested fractions": "\\frac{1}{" * 400 + "2" + "}" * 400,
    "nested roots": "\\sqrt{" * 300 + "2" + "}" * 300,
    "one number of 1 MB": "1" * 1_000_000,
    "10 MB of words": "word " * 2_000_000,
    "markers": "Answer: " * 200_000,
    "spaces": "Answer: a" + " " * 300_000 + "b",
    "line breaks": "a" + "\n" * 300_000 + "a",
    "stars": "*" * 300_000 + "a answer",
    "hashes": "####" * 80_000 + "x",
    "nested text": "\\text{" * 600 + "}" * 600,
    "fractions without arguments": "\\frac " * 1_000,
    "control characters": "\x00\x1b\ud800\ufffe",
    "code": "$__import__('os').system('sleep 60')$",
    "large matrix": "$\\begin{pmatrix}" + "\\\\".join("&".join(["x"] * 60) for _ in range(60)) + "\\end{pmatrix}^{9}$",
    "large expansion": "$(a+b+c+d+e+f)^{200}$",
    "long polynomial": "$" + "+".join(f"x^{{{n}}}" for n in range(300)) + "$",
}


def cases(data: Path, show_wrong: bool) -> None:
    rows = [json.loads(line) for line in (data / "grader" / "grader_cases.jsonl").read_text().splitlines()]
    workers.verify_math("$1$", "$1$")  # loaded
    for name, verdict in (("ours", equivalent), ("math-verify", _alone)):
        started = time.monotonic()
        wrong = [row for row in rows if bool(verdict(row["gold"], row["pred"])) != row["expected"]]
        summary = {
            "grader": name,
            "cases": len(rows),
            "right": len(rows) - len(wrong),
            "share": round(1 - len(wrong) / len(rows), 4),
            "wrong_by_origin": dict(Counter(row["origin"].partition(":")[0] for row in wrong)),
            "seconds": round(time.monotonic() - started, 2),
        }
        print(json.dumps(summary), flush=True)
        if show_wrong:
            for row in wrong:
                print(json.dumps({name: row["gold"][-80:], "pred": row["pred"][-80:], "expected": row["expected"]}))


def _alone(gold: str, prediction: str) -> bool | None:
    return workers.verify_math(gold, prediction)


def hostile() -> None:
    seconds: dict[str, float] = {}
    for name, text in HOSTILE.items():
        # Once as what was answered, once as the reference.
        for gold, prediction in (("7", text), (text, "x^2+1")):
            started = time.monotonic()
            assert not equivalent(gold, prediction), name
            seconds[name] = max(seconds.get(name, 0.0), time.monotonic() - started)
        assert equivalent("$x+1$", "$1+x$"), f"{name}: the worker does not answer any more"
    slowest = max(seconds, key=lambda name: seconds[name])
    summary: dict[str, Any] = {
        "hostile_answers": len(seconds),
        "slowest": slowest,
        "slowest_s": round(seconds[slowest], 2),
    }
    print(json.dumps(summary), flush=True)


def rate(data: Path) -> None:
    rows = json.loads((data / "grader" / "math500_qwen3_answers.json").read_text())
    pairs = [(str(row["answer"]), str(row["prediction"])) for row in rows]
    started = time.monotonic()
    accepted = sum(equivalent(gold, prediction) for gold, prediction in pairs)
    seconds = time.monotonic() - started
    summary = {"answers": len(pairs), "accepted": accepted, "answers_per_s": round(len(pairs) / seconds, 1)}
    print(json.dumps(summary), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--wrong", action="store_true")
    options = parser.parse_args()
    cases(options.data, options.wrong)
    hostile()
    rate(options.data)


if __name__ == "__main__":
    main()
