"""From the GENERATIONS table to the numbers that the report and `metrics.json` show (paper, section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from s1.evaluation import metrics, voting
from s1.evaluation.bootstrap import RESAMPLES, difference, interval
from s1.evaluation.engine import OVERFLOW
from s1.evaluation.settings import BUDGET_FORCING, DIRECT, LONG, NATURAL, SHORT
from s1.evaluation.sheet import Row, Sheet

_COLUMNS = (
    "question_id",
    "source",
    "domain",
    "model",
    "method",
    "setting",
    "max_thinking_tokens",
    "num_ignore",
    "asked_max_tokens",
    "asked_min_tokens",
    "content",
    "correct",
    "thinking_tokens",
    "total_tokens",
    "cost_usd",
    "num_tries",
    "ended_by",
)


def summarise(generations: pa.Table, resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """Per model: `direct`, `natural`, `points` (one per budget), `wait`, `methods`, and budget forcing's three metrics.

    - `direct` is the model in its own chat format, without thinking: no method, but what methods are compared with.
    - Rows without a verdict (no reference answer) count for tokens and Control, not for accuracy.
    - `control_pct` is the percentage of all responses under a cap whose thinking tokens stay within it; None when
      nothing was capped. Of the other methods it is the percentage that keep to what was asked.
    - `scaling` is the mean slope over all pairs of budgets, in percentage points per doubling of the mean thinking
      tokens, None without such a pair; budgets that brought no thinking at all have no logarithm and are left out.
    - `performance_pct` is the best accuracy of all settings of budget forcing.
    - Every interval is 95%, of the paired bootstrap over the questions.
    """
    by_model: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in generations.select(list(_COLUMNS)).to_pylist():
        row["method"] = row["method"] or BUDGET_FORCING
        by_model[row["model"]][row["setting"]].append(row)
    return {model: _model_summary(by_setting, resamples) for model, by_setting in sorted(by_model.items())}


def by_benchmark(generations: pa.Table, resamples: int = RESAMPLES) -> dict[str, dict[str, dict[str, Any]]]:
    """The same for every benchmark alone; nothing when the run's own questions were asked."""
    names = dict.fromkeys(
        domain
        for source, domain in zip(generations["source"].to_pylist(), generations["domain"].to_pylist(), strict=True)
        if source and source.startswith("benchmark:")
    )
    domains = generations["domain"].to_pylist()
    return {
        str(name): summarise(generations.filter(pa.array([domain == name for domain in domains])), resamples)
        for name in names
    }


def _model_summary(by_setting: Mapping[str, list[Row]], resamples: int) -> dict[str, Any]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for rows in by_setting.values():
        groups[rows[0]["method"]] += rows
    bounds = _bounds(by_setting)
    bound_rows = {
        name: asked
        for name, rows in groups.items()
        if (asked := [row for row in rows if bounds[row["setting"]] != (None, None)])
    }
    within = {name: [_keeps(row, bounds[row["setting"]]) for row in rows] for name, rows in bound_rows.items()}
    sheet = Sheet(by_setting, bound_rows, within, resamples)
    runs = {name: _run(name, rows, sheet) for name, rows in by_setting.items()}
    of_method: dict[str, list[str]] = defaultdict(list)
    for name, rows in by_setting.items():
        if name != DIRECT:
            of_method[rows[0]["method"]].append(name)
    methods = {
        method: _method(method, [runs[name] for name in names], within.get(method), sheet)
        for method, names in of_method.items()
    }
    return _forced_runs([runs[name] for name in of_method[BUDGET_FORCING]]) | {
        "direct": runs.get(DIRECT),
        **{name: methods.get(BUDGET_FORCING, _NO_METHOD)[name] for name in _NO_METHOD},
        "methods": {name: method | _lead(name, within, sheet) for name, method in methods.items()},
    }


_NO_METHOD: dict[str, Any] = {
    "control_pct": None,
    "control_interval_pct": None,
    "scaling": None,
    "scaling_interval": None,
    "performance_pct": None,
    "performance_interval_pct": None,
}


def _forced_runs(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The runs of budget forcing: the natural end, budgets from small to large, strings by how often they came."""
    natural: dict[str, Any] | None = None
    points: list[dict[str, Any]] = []
    wait: list[dict[str, Any]] = []
    for run in runs:
        if run["setting"] == NATURAL:
            natural = run
        elif run["num_ignore"]:
            wait.append(run)
        else:
            points.append(run)
    points.sort(key=lambda point: point["budget"])
    wait.sort(key=lambda run: (run["num_ignore"], run["setting"]))
    return {"natural": natural, "points": points, "wait": wait}


def _bounds(by_setting: Mapping[str, list[Row]]) -> dict[str, tuple[float | None, float | None]]:
    """What every setting asks for, as (least, most) thinking tokens.

    Short and long thinking without a bound of their own are measured by the mean of the natural end.
    """
    natural = [row["thinking_tokens"] for row in by_setting.get(NATURAL, ())]
    mean = sum(natural) / len(natural) if natural else None
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, rows in by_setting.items():
        first = rows[0]
        least, most = first["asked_min_tokens"], first["asked_max_tokens"]
        if first["method"] == BUDGET_FORCING:
            most = first["max_thinking_tokens"]
        elif least is None and most is None and first["method"].startswith("class_conditional"):
            most = mean if f"_{SHORT}" in name else None
            least = mean if f"_{LONG}" in name else None
        found[name] = (least, most)
    return found


def _keeps(row: Row, bounds: tuple[float | None, float | None]) -> bool:
    least, most = bounds
    tokens = row["thinking_tokens"]
    return (least is None or tokens >= least) and (most is None or tokens <= most)


def _method(method: str, runs: list[dict[str, Any]], within: list[bool] | None, sheet: Sheet) -> dict[str, Any]:
    """Control, Scaling and Performance of one method over its runs, each with its interval."""
    graded = [run for run in runs if run["accuracy_pct"] is not None]
    # Beside budgets, budget forcing has runs that end by themselves or later: they are not part of its slope.
    curve = [run for run in graded if method != BUDGET_FORCING or not (run["num_ignore"] or run["setting"] == NATURAL)]
    slope = [run for run in curve if run["mean_thinking_tokens"] > 0]
    tokens, accuracy = ([run[name] for run in slope] for name in ("mean_thinking_tokens", "accuracy_pct"))
    scaling, names = metrics.scaling(tokens, accuracy), [run["setting"] for run in slope]
    return {
        "control_pct": _round(_percentage(within)) if within else None,
        "control_interval_pct": _rounded(sheet.control(method)) if within else None,
        "scaling": _round(scaling),
        "scaling_interval": None if scaling is None else _rounded(sheet.scaling(names)),
        "performance_pct": metrics.performance([run["accuracy_pct"] for run in graded]) if graded else None,
        "performance_interval_pct": (
            _rounded(sheet.performance([run["setting"] for run in graded])) if graded else None
        ),
        "num_runs": len(runs),
        "runs": [] if method == BUDGET_FORCING else runs,
    }


def _lead(method: str, within: Mapping[str, list[bool]], sheet: Sheet) -> dict[str, Any]:
    """By how many points budget forcing keeps to what is asked more often than `method`, on the same questions."""
    if method == BUDGET_FORCING or method not in within or BUDGET_FORCING not in within:
        return {"control_lead_of_budget_forcing": None}
    lead = sheet.control_lead(BUDGET_FORCING, method)
    return {
        "control_lead_of_budget_forcing": lead
        and {
            "difference_pct": _round(lead.mean),
            "interval_pct": _rounded((lead.low, lead.high)),
            "significant": lead.excludes_zero,
        }
    }


def _run(name: str, rows: list[Row], sheet: Sheet) -> dict[str, Any]:
    """The numbers of one model in one setting."""
    tokens = [row["thinking_tokens"] for row in rows]
    graded = [row for row in rows if row["correct"] is not None]
    first = rows[0]
    num_questions = len({row["question_id"] for row in rows})
    run = {
        "setting": name,
        "budget": first["max_thinking_tokens"],
        "num_ignore": first["num_ignore"],
        "accuracy_pct": _round(_percentage([row["correct"] for row in graded])) if graded else None,
        "accuracy_interval_pct": _rounded(sheet.accuracy(name)),
        "mean_thinking_tokens": _round(sum(tokens) / len(tokens)),
        "thinking_tokens_interval": _rounded(sheet.thinking_tokens(name)),
        "max_thinking_tokens": max(tokens),
        "mean_total_tokens": _mean(rows, "total_tokens"),
        "total_tokens_interval": _rounded(sheet.total_tokens(name)),
        "mean_tries": _mean(rows, "num_tries"),
        "cost_usd": round(sum(row["cost_usd"] or 0.0 for row in rows), 6),
        "num_questions": num_questions,
        "num_responses": len(rows),
        "num_graded": len(graded),
        "num_overflowed": sum(row["ended_by"] == OVERFLOW for row in rows),
        "ended_by": _counts(row["ended_by"] for row in rows),
        "domains": _by_domain(rows),
    }
    return run | (_at_k(graded) if len(rows) > num_questions else {})


def _at_k(graded: Sequence[Row]) -> dict[str, Any]:
    """pass@k and majority@k in percent with their intervals, for every k that all questions have samples for."""
    samples: dict[str, list[Row]] = defaultdict(list)
    for row in graded:
        samples[row["question_id"]].append(row)
    if not samples:
        return {}
    found: dict[str, dict[str, Any]] = {
        name: {} for part in ("pass_at_k", "majority_at_k") for name in (f"{part}_pct", f"{part}_interval_pct")
    }
    ballots = [
        ([voting.vote(row["content"] or "") for row in rows], [row["correct"] for row in rows])
        for rows in samples.values()
    ]
    for k in voting.sizes(min(map(len, samples.values()))):
        shares = {
            "pass_at_k": [voting.pass_at_k(len(right), sum(right), k) for _, right in ballots],
            "majority_at_k": [voting.majority_at_k(votes, right, k) for votes, right in ballots],
        }
        for name, values in shares.items():
            percentages = interval([100 * value for value in values])
            found[f"{name}_pct"][str(k)] = _round(percentages.mean)
            found[f"{name}_interval_pct"][str(k)] = _rounded((percentages.low, percentages.high))
    return found


def _by_domain(rows: list[Row]) -> dict[str, float | None]:
    """Accuracy in percent of every domain (of every benchmark)."""
    graded: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        graded[row["domain"] or "unknown"] += [] if row["correct"] is None else [row["correct"]]
    return {name: _round(_percentage(all_) if all_ else None) for name, all_ in sorted(graded.items())}


def gain(generations: pa.Table, model: str = "tuned", beside: str = "base") -> dict[str, Any] | None:
    """How many percentage points `model` at its natural end is better than `beside`, on the questions of both.

    `beside` is asked in its own chat format, at its natural end where it was not asked so (`beside_setting`). With the
    95% paired-bootstrap interval; None when the two have no graded question in common.
    """
    right, direct = verdicts(generations), verdicts(generations, DIRECT).get(beside)
    found = compared(model, right.get(model, {}), beside, right.get(beside, {}) if direct is None else direct)
    return found and found | {"beside_setting": NATURAL if direct is None else DIRECT}


def verdicts(generations: pa.Table, setting: str = NATURAL) -> dict[str, dict[str, float]]:
    """Per model and graded question, the share of its samples in `setting` that are right."""
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in generations.select(["model", "question_id", "setting", "correct"]).to_pylist():
        if row["setting"] == setting and row["correct"] is not None:
            hits[row["model"]][row["question_id"]].append(row["correct"])
    return {
        model: {question: sum(all_) / len(all_) for question, all_ in of_model.items()}
        for model, of_model in hits.items()
    }


def compared(name: str, run: Mapping[str, float], beside: str, other: Mapping[str, float]) -> dict[str, Any] | None:
    """`run` against `other`, both question -> share right: the difference in points, and whether it is significant."""
    common = sorted(run.keys() & other.keys())
    if not common:
        return None
    found = difference([100 * run[key] for key in common], [100 * other[key] for key in common])
    return {
        "model": name,
        "beside": beside,
        "difference_pct": _round(found.mean),
        "interval_pct": [_round(found.low), _round(found.high)],
        "significant": found.excludes_zero,
        "num_questions": len(common),
    }


def _percentage(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits)


def _mean(rows: Sequence[Row], column: str) -> float | None:
    known = [row[column] for row in rows if row[column] is not None]
    return _round(sum(known) / len(known)) if known else None


def _counts(values: Iterable[str | None]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value or "unknown"] += 1
    return dict(sorted(counts.items()))


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _rounded(bounds: tuple[float, float]) -> list[float] | None:
    """An interval for JSON; None where resampling gave none."""
    return None if bounds[0] != bounds[0] else [round(bound, 3) for bound in bounds]
