"""The numbers of `summarise` for people: names, percentages, a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s1.evaluation.settings import BUDGET_FORCING

UNKNOWN = "\u2013"  # an en dash: what people see of a number that is not known, or not defined
NATURAL_LABEL = "natural end"
DIRECT_LABEL = "own chat format"


def short_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as a few lines for a terminal: one row per setting, one column per model."""
    models = list(summary)
    runs = {model: named_runs(numbers) for model, numbers in summary.items()}
    lines = [["", *models]]
    for name in all_names(runs.values()):
        lines.append([name, *(percent(runs[model].get(name, {}).get("accuracy_pct")) for model in models)])
    lines.append(["control", *(percent(summary[model]["control_pct"]) for model in models)])
    lines.append(["scaling", *(signed(summary[model]["scaling"]) for model in models)])
    lines.append(["performance", *(percent(summary[model]["performance_pct"]) for model in models)])
    others = dict.fromkeys(name for model in models for name in summary[model]["methods"] if name != BUDGET_FORCING)
    for name in others:
        controls = (summary[model]["methods"].get(name, {}).get("control_pct") for model in models)
        lines.append([f"control, {name.replace('_', ' ')}", *map(percent, controls)])
    return align(lines)


def named_runs(numbers: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is shown of one model, in order: budgets from small to large, the natural end, the strings, the rest.

    What it answers in its own chat format comes first.
    """
    named = {DIRECT_LABEL: numbers["direct"]} if numbers["direct"] else {}
    named |= {f"max {point['budget']} tokens": point for point in numbers["points"]}
    if numbers["natural"]:
        named[NATURAL_LABEL] = numbers["natural"]
    named |= {run_label(run["setting"]): run for run in numbers["wait"]}
    return named | {run_label(run["setting"]): run for method in numbers["methods"].values() for run in method["runs"]}


def all_names(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of what `named_runs` has of several models, in order."""
    names = dict.fromkeys(name for named in runs for name in named)
    return sorted(names, key=lambda name: name != DIRECT_LABEL)  # first, also where the first model was not asked so


def run_label(setting: str) -> str:
    """A setting for people: `wait_2` is Wait x2, `tokens_16_forced` is tokens 16 forced."""
    name, _, count = setting.rpartition("_")
    words = f"{name.capitalize()} x{count}" if name == "wait" and count.isdigit() else setting
    return words.replace("_", " ")


def align(lines: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}%"


def signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.1f}"
