"""The points that the paper prints (arXiv 2501.19393), to stand beside one's own.

Numbers only; `paper.json` names where each was read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s1.evaluation import metrics

THINKING = "thinking_tokens"
# What our benchmarks are called there.
NAMES = {"aime24": "AIME24", "aime25": "AIME25", "math500": "MATH500", "gpqa_diamond": "GPQA Diamond"}


@dataclass(frozen=True)
class Curve:
    """One line of a figure. `settings` is empty when the paper does not name them."""

    figure: str
    benchmark: str
    method: str
    x: str  # thinking_tokens of a response, or output_tokens_of_all_questions
    tokens: tuple[float, ...]
    accuracy_pct: tuple[float, ...]
    settings: tuple[str, ...] = ()

    def per_question(self) -> Curve:
        """The same over the tokens of one question, where the figure counts those of all."""
        if self.x == THINKING:
            return self
        count = _values()["num_questions"][self.benchmark]
        return replace(self, x=THINKING, tokens=tuple(tokens / count for tokens in self.tokens))


@dataclass(frozen=True)
class Row:
    """One row of Table 3: the runs behind it, and what the paper prints about them."""

    method: str
    runs_from: str
    thinking_tokens: tuple[float, ...]
    accuracy_pct: tuple[float, ...]
    max_tokens: tuple[float | None, ...]
    min_tokens: tuple[float | None, ...]
    scaling_runs: tuple[int, ...]  # runs that the printed Scaling follows from
    printed: dict[str, str]  # runs, control_pct, scaling, performance_pct

    @property
    def control_pct(self) -> float:
        """Each run has bounds of its own: it counts when it lies within them."""
        bounds = zip(self.thinking_tokens, self.max_tokens, self.min_tokens, strict=True)
        within = [(most is None or run <= most) and (least is None or run >= least) for run, most, least in bounds]
        return 100 * sum(within) / len(within)

    @property
    def scaling(self) -> float:
        runs = self.scaling_runs
        slope = metrics.scaling([self.thinking_tokens[run] for run in runs], [self.accuracy_pct[run] for run in runs])
        assert slope is not None, "no row has runs of one compute alone"
        return slope

    @property
    def performance_pct(self) -> float:
        return metrics.performance(self.accuracy_pct)


@functools.cache
def _values() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))


def source() -> str:
    """Where the numbers are from, for a caption."""
    return _values()["source"]["paper"]


def curves(benchmark: str | None = None, figure: str | None = None) -> tuple[Curve, ...]:
    """The lines of the figures, of one benchmark or one figure when named."""
    wanted = (
        values
        for values in _values()["curves"]
        if benchmark in (None, values["benchmark"]) and figure in (None, values["figure"])
    )
    return tuple(
        Curve(
            figure=values["figure"],
            benchmark=values["benchmark"],
            method=values["method"],
            x=values["x"],
            tokens=tuple(values["tokens"]),
            accuracy_pct=_accuracy(values["solved"], values["benchmark"]),
            settings=tuple(values.get("settings", ())),
        )
        for values in wanted
    )


def benchmarks() -> tuple[str, ...]:
    """Benchmarks that the paper draws, by its names."""
    return tuple(_values()["num_questions"])


def table3() -> tuple[Row, ...]:
    """Every method on AIME24, in the paper's order."""
    return tuple(_row(values) for values in _values()["table3"])


def table(name: str) -> dict[str, dict[str, float | None]]:
    """Table 1, 2, 4 to 8 or 12 to 14 (`table1` …): row -> column -> number; None where the paper prints none.

    A column that is a benchmark's name holds accuracies in percent.
    """
    values = _values()[name]
    return {row: dict(zip(values["columns"], cells, strict=True)) for row, cells in values["rows"].items()}


def ablation(variant: str, benchmark: str) -> tuple[float | None, tuple[float, float] | None]:
    """Accuracy of a row of table 2, and the interval of its difference to the selection; None: not in the paper."""
    values = _values()["table2"]
    if variant not in values["rows"] or benchmark not in values["columns"]:
        return None, None
    at = values["columns"].index(benchmark)
    intervals = values["intervals_of_the_difference_to_the_selection"].get(variant)
    return values["rows"][variant][at], None if intervals is None else (intervals[at][0], intervals[at][1])


def trace_lengths(data_set: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How long the traces of `s1K` or `s1K-1.1` are: edges of N bins in tokens (N + 1), traces in each (N)."""
    values = _values()["trace_lengths"]
    return tuple(values["edges_tokens"]), tuple(values["traces"][data_set])


def _row(values: dict[str, Any]) -> Row:
    num_runs = len(values["thinking_tokens"])
    none = [None] * num_runs
    return Row(
        method=values["method"],
        runs_from=values["runs_from"],
        thinking_tokens=tuple(values["thinking_tokens"]),
        accuracy_pct=_accuracy(values["solved"], "AIME24"),
        max_tokens=tuple(values.get("max_tokens", none)),
        min_tokens=tuple(values.get("min_tokens", none)),
        scaling_runs=tuple(values.get("scaling_runs", range(num_runs))),
        printed=values["printed"],
    )


def _accuracy(solved: Sequence[int], benchmark: str) -> tuple[float, ...]:
    return tuple(100 * count / _values()["num_questions"][benchmark] for count in solved)
