"""The whole recipe as `make demo` runs it: minutes, peak memory, and what the model has learned.

    python tests/benchmarks/demo.py
    python tests/benchmarks/demo.py --run-dir runs/measured -- --train.seed 1

Runs `jobs.pipeline --preset laptop` in a new run folder (what follows `--` goes to it) and looks at all its processes,
Ray's among them, about once a second; memory is the sum of proportional set sizes. Prints the peak of every stage, then
one JSON object. Ends with code 1 when something does not hold that is promised: at most ten minutes and 12 GB; the
base model under 10% in the tuned model's format; the tuned model at least 60% at its natural end, and at least 40
points ahead of the base model in its own chat format; the largest budget at least 40 points above the smallest, no
response beyond its budget, and ahead of every method by words in Control: the 95% interval of the lead leaves out 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from process_tree import watched

MINUTES, GIGABYTES = 10, 12


class Stages:
    """The peak of every stage, read off the pipeline's own lines: `[5/7] train`."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self._stage = "start"

    def line(self, text: str, peak: int) -> None:
        self.peaks[self._stage] = max(self.peaks.get(self._stage, 0.0), round(peak / 1e9, 2))
        if text.startswith("["):
            self._stage = text.partition("] ")[2]
        print(text, file=sys.stderr, flush=True)


def learned(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of `metrics.json` that the promise is about."""
    base, tuned = metrics["models"]["base"], metrics["models"]["tuned"]
    accuracy = [point["accuracy_pct"] for point in tuned["points"]]
    return {
        "base_direct_pct": base["direct"]["accuracy_pct"],
        "base_natural_pct": base["natural"]["accuracy_pct"],
        "tuned_natural_pct": tuned["natural"]["accuracy_pct"],
        "largest_minus_smallest_points": accuracy[-1] - accuracy[0],
        "control_pct": min(base["control_pct"], tuned["control_pct"]),
        "least_control_lead_points": min(least_leads(tuned), default=0.0),
        "scaling": tuned["scaling"],
    }


def least_leads(numbers: dict[str, Any]) -> list[float]:
    """The lower bound of budget forcing's lead in Control over every method that asks in words."""
    words = (method for name, method in numbers["methods"].items() if name.endswith("_conditional"))
    return [method["control_lead_of_budget_forcing"]["interval_pct"][0] for method in words]


def broken(result: dict[str, Any]) -> list[str]:
    """The promises that do not hold, in words."""
    promises = {
        f"at most {MINUTES} minutes": result["minutes"] <= MINUTES,
        f"at most {GIGABYTES} GB": result["peak_gb"] <= GIGABYTES,
        "base under 10% in the tuned model's format": result["base_natural_pct"] < 10,
        "tuned at least 60%": result["tuned_natural_pct"] >= 60,
        "tuned at least 40 points ahead of base": result["tuned_natural_pct"] - result["base_direct_pct"] >= 40,
        "at least 40 points between budgets": result["largest_minus_smallest_points"] >= 40,
        "control 100%": result["control_pct"] == 100,
        "ahead in control": result["least_control_lead_points"] > 0,
    }
    return [words for words, holds in promises.items() if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, help="keep the run in this folder; it must not exist yet")
    parser.add_argument("arguments", nargs="*", help="for jobs.pipeline")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.run_dir or Path(temporary) / "run").absolute()
        if folder.exists():
            parser.error(f"--run-dir {folder} exists; choose a new folder, so that every stage runs")
        stages = Stages()
        command = [sys.executable, "-m", "jobs.pipeline", "--preset", "laptop", "--run-dir", str(folder)]
        seconds, peak = watched([*command, *options.arguments], stages.line)
        metrics = json.loads((folder / "report" / "metrics.json").read_text())
    result = {"minutes": round(seconds / 60, 2), "peak_gb": round(peak / 1e9, 2), **learned(metrics)}
    stage_seconds = {name: stage["seconds"] for name, stage in metrics["stages"].items()}
    faults = broken(result)
    print(json.dumps({**result, "stage_gb": stages.peaks, "stage_seconds": stage_seconds, "broken": faults}))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
