"""From the GENERATIONS table to the numbers that the report and `metrics.json` show (paper, section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import pyarrow as pa

from s1.evaluation import metrics
from s1.evaluation.bootstrap import difference
from s1.evaluation.settings import NATURAL

Row = Mapping[str, Any]
_COLUMNS = (
    "question_id",
    "domain",
    "model",
    "setting",
    "max_thinking_tokens",
    "num_ignore",
    "correct",
    "thinking_tokens",
    "ended_by",
)


def summarise(generations: pa.Table) -> dict[str, dict[str, Any]]:
    """Per model: `natural`, `points` (one per budget), `wait`, and `control_pct`, `scaling`, `performance_pct`.

    - Rows without a verdict (no reference answer) count for tokens and Control, not for accuracy.
    - `control_pct` is the percentage of all responses under a cap whose thinking tokens stay within it; 100.0 when
      nothing was capped.
    - `scaling` is the mean slope over all pairs of budgets, in percentage points per doubling of the mean thinking
      tokens, 0 without such a pair; budgets that brought no thinking at all have no logarithm and are left out.
    - `performance_pct` is the best accuracy of all settings.
    """
    by_model: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in generations.select(list(_COLUMNS)).to_pylist():
        by_model[row["model"]][row["setting"]].append(row)
    return {model: _model_summary(by_setting) for model, by_setting in sorted(by_model.items())}


def _model_summary(by_setting: Mapping[str, list[Row]]) -> dict[str, Any]:
    points: list[dict[str, Any]] = []
    wait: list[dict[str, Any]] = []
    natural: dict[str, Any] | None = None
    for name, rows in by_setting.items():
        numbers = _run(rows)
        if name == NATURAL:
            natural = numbers
        elif rows[0]["num_ignore"]:
            wait.append({"num_ignore": rows[0]["num_ignore"], **numbers})
        else:
            points.append({"budget": rows[0]["max_thinking_tokens"], **numbers})
    points.sort(key=lambda point: point["budget"])
    wait.sort(key=lambda run: run["num_ignore"])
    runs = [*points, *wait, *([natural] if natural else [])]
    graded = [run["accuracy_pct"] for run in runs if run["accuracy_pct"] is not None]
    return {
        "natural": natural,
        "points": points,
        "wait": wait,
        "control_pct": control(row for rows in by_setting.values() for row in rows),
        "scaling": _scaling(points),
        "performance_pct": metrics.performance(graded) if graded else None,
    }


def _run(rows: list[Row]) -> dict[str, Any]:
    """The numbers of one model in one setting."""
    tokens = [row["thinking_tokens"] for row in rows]
    graded = [row["correct"] for row in rows if row["correct"] is not None]
    accuracy = 100 * sum(graded) / len(graded) if graded else None
    return {
        "accuracy_pct": _round(accuracy),
        "accuracy_interval_pct": [_round(100 * bound) for bound in wilson(sum(graded), len(graded))],
        "mean_thinking_tokens": _round(sum(tokens) / len(tokens)),
        "max_thinking_tokens": max(tokens),
        "num_questions": len(rows),
        "num_graded": len(graded),
        "ended_by": _counts(row["ended_by"] for row in rows),
        "domains": _by_domain(rows),
    }


def _by_domain(rows: list[Row]) -> dict[str, float | None]:
    """Accuracy in percent of every domain (of every benchmark)."""
    graded: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        graded[row["domain"] or "unknown"] += [] if row["correct"] is None else [row["correct"]]
    return {name: _round(100 * sum(all_) / len(all_) if all_ else None) for name, all_ in sorted(graded.items())}


def gain(generations: pa.Table, model: str = "tuned", beside: str = "base") -> dict[str, Any] | None:
    """How many percentage points `model` is better than `beside` at the natural end, on the questions of both.

    With its 95% paired-bootstrap interval; None when the two have no graded question in common.
    """
    verdicts: dict[str, dict[str, bool]] = {model: {}, beside: {}}
    for row in generations.select(list(_COLUMNS)).to_pylist():
        if row["model"] in verdicts and row["setting"] == NATURAL and row["correct"] is not None:
            verdicts[row["model"]][row["question_id"]] = row["correct"]
    common = sorted(verdicts[model].keys() & verdicts[beside].keys())
    if not common:
        return None
    run, other = ([100 * verdicts[name][question_id] for question_id in common] for name in (model, beside))
    found = difference(run, other)
    return {
        "model": model,
        "beside": beside,
        "difference_pct": _round(found.mean),
        "interval_pct": [_round(found.low), _round(found.high)],
        "significant": found.excludes_zero,
        "num_questions": len(common),
    }


def control(rows: Iterable[Row]) -> float:
    """Percentage of the capped responses that kept to their budget.

    Each response is one run with its own a_max: excess 0 is within the budget, anything above is not.
    """
    excess = [
        max(0, row["thinking_tokens"] - row["max_thinking_tokens"])
        for row in rows
        if row["max_thinking_tokens"] is not None
    ]
    return metrics.control(excess, max_tokens=0) if excess else 100.0


def _scaling(points: list[dict[str, Any]]) -> float | None:
    graded = [point for point in points if point["accuracy_pct"] is not None]
    if not graded:
        return None
    runs = [point for point in graded if point["mean_thinking_tokens"] > 0]
    tokens = [point["mean_thinking_tokens"] for point in runs]
    return _round(metrics.scaling(tokens, [point["accuracy_pct"] for point in runs]))


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share by Wilson's score; the whole of [0, 1] without any trial."""
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, z * z / trials
    centre = share + weight / 2
    spread = z * sqrt(share * (1 - share) / trials + weight / (4 * trials))
    low, high = (centre - spread) / (1 + weight), (centre + spread) / (1 + weight)
    return (0.0 if successes == 0 else max(0.0, low)), (1.0 if successes == trials else min(1.0, high))


def _counts(values: Iterable[str | None]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value or "unknown"] += 1
    return dict(sorted(counts.items()))


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def short_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as a few lines for a terminal: one row per setting, one column per model."""
    models = list(summary)
    runs = {model: _named_runs(numbers) for model, numbers in summary.items()}
    names = list(dict.fromkeys(name for named in runs.values() for name in named))
    lines = [["", *models]]
    lines += [[name, *(percent(runs[model].get(name, {}).get("accuracy_pct")) for model in models)] for name in names]
    lines.append(["control", *(percent(summary[model]["control_pct"]) for model in models)])
    lines.append(["scaling", *(signed(summary[model]["scaling"]) for model in models)])
    lines.append(["performance", *(percent(summary[model]["performance_pct"]) for model in models)])
    return align(lines)


def _named_runs(numbers: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is shown of one model, in order: budgets from small to large, the natural end, then the "Wait"s."""
    named = {f"max {point['budget']} tokens": point for point in numbers["points"]}
    if numbers["natural"]:
        named["natural end"] = numbers["natural"]
    return named | {f"Wait x{run['num_ignore']}": run for run in numbers["wait"]}


def align(lines: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
