"""The report's numbers for programs: `metrics.json`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from s1.artifacts import Manifest


def stages(manifests: Iterable[Manifest]) -> dict[str, dict[str, Any]]:
    """What every stage took in, gave out, dropped and cost, in the order of `manifests`."""
    return {
        manifest.job: {
            "rows_in": manifest.rows_in,
            "rows_out": manifest.rows_out,
            "dropped": {reason: count for reason, count in manifest.dropped.items() if count},
            "seconds": manifest.seconds,
            "cost_usd": manifest.cost_usd,
        }
        for manifest in manifests
    }


def metrics(
    summary: Mapping[str, Mapping[str, Any]], gain: Mapping[str, Any] | None, manifests: Iterable[Manifest]
) -> dict[str, Any]:
    """`models` and `gain`: see `s1.evaluation.summary`; `stages` by name; `seconds` of all of them together."""
    by_stage = stages(manifests)
    total = sum(stage["seconds"] for stage in by_stage.values())
    return {"models": dict(summary), "gain": gain, "stages": by_stage, "seconds": round(total, 3)}


def funnel(manifests: Iterable[Manifest]) -> list[tuple[str, int]]:
    """Rows that are left after every step from what the source gave to the selection, as (label, rows).

    The reasons of a stage are taken off in the order in which its manifest gives them. What a stage leaves aside
    without dropping it (the questions kept for the evaluation) is a step of its own.
    """
    steps: list[tuple[str, int]] = []
    left = 0
    for manifest in manifests:
        if not steps or manifest.rows_in != left:
            steps.append((f"{manifest.job}: in", manifest.rows_in))
        left = manifest.rows_in
        for reason, count in manifest.dropped.items():
            if count:
                left -= count
                steps.append((f"without {reason.replace('_', ' ')}", left))
        if manifest.rows_out != left:
            left = manifest.rows_out
            steps.append((f"{manifest.job}: out", left))
    return steps


COLUMNS: tuple[str, ...] = (
    "model",
    "setting",
    "budget",
    "waits",
    "accuracy_pct",
    "low_pct",
    "high_pct",
    "mean_thinking_tokens",
    "max_thinking_tokens",
    "num_questions",
)


def results(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row of `COLUMNS` per model and setting; what is not known is None."""
    rows: list[dict[str, Any]] = []
    for model, numbers in summary.items():
        natural = [("natural", numbers["natural"])] if numbers["natural"] else []
        runs = [(f"max_{point['budget']}", point) for point in numbers["points"]]
        runs += [*natural, *((f"wait_{run['num_ignore']}", run) for run in numbers["wait"])]
        for setting, run in runs:
            low, high = run["accuracy_interval_pct"]
            names = {"model": model, "setting": setting, "budget": run.get("budget"), "waits": run.get("num_ignore", 0)}
            rows.append({name: {**run, **names, "low_pct": low, "high_pct": high}[name] for name in COLUMNS})
    return rows


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of `results` as CSV."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def as_markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of `results` as a Markdown table."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [["" if row[name] is None else f"{row[name]}" for name in COLUMNS] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
