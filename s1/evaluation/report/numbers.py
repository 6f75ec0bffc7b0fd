"""The report's numbers for programs: `metrics.json`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s1.artifacts import Manifest
from s1.evaluation import paper
from s1.evaluation.display import DIRECT_LABEL, NATURAL_LABEL, UNKNOWN, run_label
from s1.evaluation.settings import DIRECT, NATURAL

NOT_PICKED = "not_picked"  # what the selection leaves is what it is for, not a fault that was taken out


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
    summary: Mapping[str, Mapping[str, Any]],
    benchmarks: Mapping[str, Any],
    gain: Mapping[str, Any] | None,
    manifests: Iterable[Manifest],
    engine: Mapping[str, Any],
    compared: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """`models`, `benchmarks` and `gain`: see `s1.evaluation.summary`; `compared`: `report.compare`.

    `engine` is what every score was measured with; `stages` by name; `seconds` of all of them together.
    """
    by_stage = stages(manifests)
    total = sum(stage["seconds"] for stage in by_stage.values())
    return {
        "models": dict(summary),
        "benchmarks": dict(benchmarks),
        "gain": gain,
        "compared": list(compared),
        "engine": dict(engine),
        "stages": by_stage,
        "seconds": round(total, 3),
    }


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
                steps.append(("picked" if reason == NOT_PICKED else f"without {reason.replace('_', ' ')}", left))
        if manifest.rows_out != left:
            left = manifest.rows_out
            steps.append((f"{manifest.job}: out", left))
    return steps


# What a score was measured with.
MEASURED: tuple[str, ...] = ("engine", "batch_size", "parallelism", "precision", "versions")
RESULTS: tuple[str, ...] = (
    "model",
    "benchmark",
    "method",
    "setting",
    "budget",
    "waits",
    "accuracy_pct",
    "low_pct",
    "high_pct",
    "mean_thinking_tokens",
    "max_thinking_tokens",
    "mean_total_tokens",
    "num_questions",
    "num_responses",
    "num_overflowed",
    "pass_at_k_pct",
    "majority_at_k_pct",
    "cost_usd",
    *MEASURED,
)
METHODS: tuple[str, ...] = (
    "model",
    "benchmark",
    "method",
    "control_pct",
    "control_low",
    "control_high",
    "scaling",
    "scaling_low",
    "scaling_high",
    "performance_pct",
    "performance_low",
    "performance_high",
    "num_runs",
    *MEASURED,
)
COMPARED: tuple[str, ...] = (
    "name",
    "accuracy_pct",
    "low_pct",
    "high_pct",
    "num_questions",
    "control_pct",
    "scaling",
    "performance_pct",
    "difference_pct",
    "difference_low",
    "difference_high",
    "significant",
    "num_common",
    *MEASURED,
)


def measured(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `MEASURED` from the engine's facts; unknown is None."""
    versions = engine.get("versions") or {}
    return {
        "engine": engine.get("endpoint") or engine.get("engine"),
        "batch_size": engine.get("batch_size"),
        "parallelism": engine.get("parallelism"),
        "precision": engine.get("precision"),
        "versions": " ".join(f"{name} {version}" for name, version in versions.items()) or None,
    }


def results(
    summary: Mapping[str, Mapping[str, Any]], benchmarks: Mapping[str, Any], engine: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row of `RESULTS` per model and setting, over all questions and for every benchmark; unknown is None."""
    rows: list[dict[str, Any]] = []
    for benchmark, part in _parts(summary, benchmarks):
        for model, numbers in part.items():
            for method, run in _runs(numbers):
                low, high = run["accuracy_interval_pct"]
                values = {
                    **run,
                    **measured(engine),
                    "model": model,
                    "benchmark": benchmark,
                    "method": method,
                    "waits": run["num_ignore"],
                    "low_pct": low,
                    "high_pct": high,
                    **{name: _at_k(run.get(name)) for name in ("pass_at_k_pct", "majority_at_k_pct")},
                }
                rows.append({name: values[name] for name in RESULTS})
    return rows


def _parts(
    summary: Mapping[str, Mapping[str, Any]], benchmarks: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    """All questions, then every benchmark alone where there are several, by what a table calls them."""
    if len(benchmarks) == 1:
        return [(next(iter(benchmarks)), summary)]
    return [("all", summary), *benchmarks.items()]


def _runs(numbers: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    natural = [numbers["natural"]] if numbers["natural"] else []
    runs = [(DIRECT, numbers["direct"])] if numbers["direct"] else []
    runs += [("budget_forcing", run) for run in (*numbers["points"], *natural, *numbers["wait"])]
    return runs + [(name, run) for name, method in numbers["methods"].items() for run in method["runs"]]


def _at_k(shares: Mapping[str, float] | None) -> str | None:
    return " ".join(f"{k}:{share:g}" for k, share in shares.items()) if shares else None


def methods(
    summary: Mapping[str, Mapping[str, Any]], benchmarks: Mapping[str, Any], engine: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row of `METHODS` per model and method (paper, table 3), over all questions and for every benchmark."""
    return [
        _method(method, {**measured(engine), "model": model, "benchmark": benchmark, "method": name})
        for benchmark, part in _parts(summary, benchmarks)
        for model, numbers in part.items()
        for name, method in numbers["methods"].items()
    ]


def _method(method: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {**known, "num_runs": method["num_runs"]}
    for metric in ("control_pct", "scaling", "performance_pct"):
        short = metric.removesuffix("_pct")
        interval = method[metric.replace("_pct", "_interval_pct") if short != metric else f"{metric}_interval"]
        low, high = interval or (None, None)
        row |= {metric: method[metric], f"{short}_low": low, f"{short}_high": high}
    return {column: row[column] for column in METHODS}


def compared(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row of `COMPARED` per run that stands beside this one; see `report.compare.rows`."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        gap = run["difference"] or {}
        low, high = run["accuracy_interval_pct"] or (None, None)
        difference_low, difference_high = gap.get("interval_pct") or (None, None)
        values = {
            **run,
            "low_pct": low,
            "high_pct": high,
            "difference_pct": gap.get("difference_pct"),
            "difference_low": difference_low,
            "difference_high": difference_high,
            "significant": gap.get("significant"),
            "num_common": gap.get("num_questions", 0),
        }
        rows.append({name: values[name] for name in COMPARED})
    return rows


def beside_paper(benchmarks: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Ours below the paper's tables 1, 4 and 5, for the benchmarks of both: columns, and rows in percent.

    Nothing when none of the benchmarks is one of the paper's.
    """
    names = {benchmark: paper.NAMES[benchmark] for benchmark in benchmarks if benchmark in paper.NAMES}
    if not names:
        return [], []
    rows: list[dict[str, Any]] = []
    for number in (1, 5, 4):
        for row, accuracy in paper.table(f"table{number}").items():
            found = {name: accuracy.get(name) for name in names.values()}
            if any(value is not None for value in found.values()):
                rows.append({"source": f"paper, table {number}", "row": row, **found})
    for label, setting in _shared_settings(benchmarks).items():
        for model in dict.fromkeys(model for part in benchmarks.values() for model in part):
            found = {
                names[benchmark]: run["accuracy_pct"]
                for benchmark, part in benchmarks.items()
                if benchmark in names
                for _, run in (_runs(part[model]) if model in part else ())
                if run["setting"] == setting
            }
            if any(accuracy is not None for accuracy in found.values()):
                row = {"source": "this run", "row": f"{model}, {label}"}
                rows.append(row | {name: found.get(name) for name in names.values()})
    return ["source", "row", *names.values()], rows


def _shared_settings(benchmarks: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Settings that stand beside the paper's, by what they are called.

    The own chat format is its row of Qwen2.5-32B-Instruct; then without forcing, then every string.
    """
    found = {DIRECT_LABEL: DIRECT, NATURAL_LABEL: NATURAL}
    for part in benchmarks.values():
        for numbers in part.values():
            found |= {run_label(run["setting"]): run["setting"] for run in numbers["wait"]}
    return found


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows of a table as CSV."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def as_markdown(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The same as a Markdown table; what is not known is a dash."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [
        [UNKNOWN if row[name] is None else f"{row[name]}".replace("|", "\\|") for name in columns] for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
