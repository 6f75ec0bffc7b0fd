"""Any number of runs side by side: ours from their tables, others from lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from s1.evaluation import lm_eval
from s1.evaluation.bootstrap import difference
from s1.evaluation.display import DIRECT_LABEL
from s1.evaluation.report.numbers import measured
from s1.evaluation.settings import DIRECT
from s1.evaluation.summary import compared, summarise, verdicts

TUNED, BASE = "tuned", "base"


@dataclass(frozen=True)
class Other:
    """One model of another run.

    `numbers`: see `summarise`; empty when only an accuracy is known. `measured`: columns of `numbers.MEASURED`.
    """

    name: str
    accuracy_pct: float | None
    interval_pct: tuple[float, float] | None
    num_questions: int | None
    verdicts: Mapping[str, float]  # question_id -> share right, at the natural end or as the name says
    measured: Mapping[str, Any]
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


def main_model(models: Mapping[str, Any]) -> str:
    """The model that a run is about."""
    return TUNED if TUNED in models else next(iter(models))


def of_run(name: str, generations: pa.Table, engine: Mapping[str, Any]) -> list[Other]:
    """Every model of a run of ours, also in its own chat format where it was asked so.

    The main one carries the run's name alone. `engine`: facts of its evaluation.
    """
    summary, right, direct = summarise(generations), verdicts(generations), verdicts(generations, DIRECT)
    if not summary:
        return []
    main, found = main_model(summary), list[Other]()
    for model, numbers in summary.items():
        title = name if model == main else f"{name}, {model}"
        if numbers["direct"]:
            shown = _accuracy(numbers["direct"])
            found.append(Other(f"{title}, {DIRECT_LABEL}", *shown, direct.get(model, {}), measured(engine)))
        shown = _accuracy(numbers["natural"] or {})
        found.append(Other(title, *shown, right.get(model, {}), measured(engine), numbers))
    return found


def _accuracy(run: Mapping[str, Any]) -> tuple[float | None, tuple[float, float] | None, int | None]:
    """Accuracy, its interval and the number of questions of one run."""
    low_high = run.get("accuracy_interval_pct")
    interval = None if low_high is None else (low_high[0], low_high[1])
    return run.get("accuracy_pct"), interval, run.get("num_questions")


def of_lm_eval(name: str, tasks: list[lm_eval.Task]) -> list[Other]:
    """Every task of a run of lm-eval."""
    return [
        Other(
            f"{name}, {task.name}",
            task.accuracy_pct,
            task.interval_pct,
            task.num_questions,
            task.verdicts,
            measured(task.engine),
        )
        for task in tasks
    ]


def rows(ours: str, right: Mapping[str, float], others: list[Other]) -> list[dict[str, Any]]:
    """One row per run: its numbers, and how it differs from `ours` on the questions of both."""
    return [
        {
            "name": other.name,
            "accuracy_pct": _round(other.accuracy_pct),
            "accuracy_interval_pct": [round(bound, 3) for bound in other.interval_pct] if other.interval_pct else None,
            "num_questions": other.num_questions,
            **{name: other.numbers.get(name) for name in ("control_pct", "scaling", "performance_pct")},
            **other.measured,
            "difference": None if right is other.verdicts else compared(other.name, other.verdicts, ours, right),
        }
        for other in others
    ]


def significance(runs: Mapping[str, Mapping[str, float]], beside: str) -> list[dict[str, Any]]:
    """Every run against `beside` on the questions of all of them, so that one line can be read against the other.

    `runs`: name -> question_id -> share right. ValueError when they have no question in common.
    """
    common = sorted(set.intersection(*(set(run) for run in runs.values())))
    if not common:
        raise ValueError("the runs have no graded question in common")
    reference = [100 * runs[beside][key] for key in common]
    found: list[dict[str, Any]] = []
    for name, run in runs.items():
        values = [100 * run[key] for key in common]
        row: dict[str, Any] = {"name": name, "accuracy_pct": _round(sum(values) / len(values))}
        gap = None if name == beside else difference(values, reference)
        row |= {
            "difference_pct": None if gap is None else _round(gap.mean),
            "interval_pct": None if gap is None else [_round(gap.low), _round(gap.high)],
            "significant": None if gap is None else gap.excludes_zero,
            "num_questions": len(common),
        }
        found.append(row)
    return found


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
