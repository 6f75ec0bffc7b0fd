"""Figures of the evaluation as the paper draws them: accuracy over compute, on a logarithmic axis (figures 1, 4, 6, 7).

Numbers come from `s1.evaluation.summary`; points of the paper itself can be laid under them. Colours tell the models,
markers the ways to spend compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log2
from typing import TYPE_CHECKING, Any

from s1.evaluation.display import DIRECT_LABEL, NATURAL_LABEL
from s1.evaluation.paper import Curve
from s1.evaluation.report.figures import BASE, INK, REST, TUNED, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Run = Mapping[str, Any]
Summary = Mapping[str, Mapping[str, Any]]

COLORS = {"tuned": TUNED, "base": BASE}
OTHERS = ("#2a9d5c", "#a05fc4", "#b8860b", "#c2466b", "#4f7f86")
SAMPLED = {"majority_voting": ("voting", "D"), "best_of_n": ("best of n", "P"), "tree_search": ("tree search", "X")}
PAPER_MARKERS = "osDv"
LEAST_TICKS, MOST_TICKS = 3, 9
MARGIN = 1.25  # between the outer points and the ends of the axis
LONGEST_IN_3_COLUMNS = 12  # characters of a legend's entry


@dataclass(frozen=True)
class Line:
    """What is drawn in one go: points with their intervals, all in percent."""

    model: str
    kind: str
    x: Sequence[float]  # tokens; 0 stands at the left of the axis, which knows no 0
    y: Sequence[float]
    intervals: Sequence[Sequence[float]] = ()
    marker: str = "o"
    connected: bool = True

    @property
    def label(self) -> str:
        return f"{self.model}, {self.kind}"


@styled
def scaling_curve(summary: Summary, paper: Sequence[Curve] = ()) -> Figure:
    """Accuracy over mean thinking tokens, one line per model; see `s1.evaluation.summary.summarise`."""
    lines: list[Line] = []
    for model, numbers in sorted(summary.items(), key=lambda item: item[0] == "tuned"):  # the tuned one on top
        natural = [numbers["natural"]] if numbers["natural"] else []
        direct = [numbers["direct"]] if numbers["direct"] else []
        lines.append(_line(model, DIRECT_LABEL, direct, "D", connected=False))
        lines.append(_line(model, "budget", numbers["points"]))
        lines.append(_line(model, NATURAL_LABEL, natural, "*", connected=False))
        lines.append(_line(model, "Wait", numbers["wait"], "^", connected=False))
    return _drawn(3.5, lines, paper, "mean thinking tokens")


@styled
def parallel_curve(summary: Summary, paper: Sequence[Curve] = ()) -> Figure:
    """Sequential against parallel: thinking longer, or answering several times (paper, figures 4b and 7).

    Compute is every token of a question, prompts and discarded samples included.
    """
    lines = [line for model, numbers in summary.items() for line in parallel_lines(model, numbers)]
    return _drawn(3.6, lines, paper, "tokens per question, all samples")


def parallel_lines(model: str, numbers: Mapping[str, Any]) -> list[Line]:
    """The budgets in sequence, every majority of samples, every method that samples."""
    forced = [*numbers["points"], *([numbers["natural"]] if numbers["natural"] else []), *numbers["wait"]]
    lines = [_line(model, "sequential", forced, axis="mean_total_tokens")]
    for run in forced:
        elected = run.get("majority_at_k_pct", {})
        if run["mean_total_tokens"] and len(elected) > 1:
            x = [int(k) * run["mean_total_tokens"] for k in elected]
            intervals = list(run["majority_at_k_interval_pct"].values())
            lines.append(Line(model, f"majority of {run['setting']}", x, list(elected.values()), intervals, "s"))
    for method, (kind, marker) in SAMPLED.items():
        runs = numbers["methods"].get(method, {}).get("runs", [])
        lines.append(_line(model, kind, runs, marker, axis="mean_total_tokens"))
    return [line for line in lines if line.x]


@styled
def rejection_curve(summary: Summary, paper: Sequence[Curve] = ()) -> Figure:
    """Accuracy over the thinking tokens of what rejection sampling accepted (paper, figure 6)."""
    lines: list[Line] = []
    tries: list[tuple[float, float, str]] = []
    for model, numbers in summary.items():
        runs = numbers["methods"].get("rejection_sampling", {}).get("runs", [])
        lines.append(line := _line(model, "rejection sampling", runs))
        for run, x, y in zip(_sorted(runs), line.x, line.y, strict=True):
            tries.append((x, y, f"≤ {run['budget']}: {run['mean_tries']:.1f} tries"))
    figure = _drawn(3.2, lines, paper, "mean thinking tokens")
    for x, y, text in tries:
        where = max(x, figure.axes[0].get_xlim()[0])
        figure.axes[0].annotate(text, (where, y), xytext=(4, 4), textcoords="offset points", fontsize=7.5)
    return figure


@styled
def comparison(runs: Summary) -> Figure:
    """Runs over each other: name -> the numbers of one model."""
    lines: list[Line] = []
    for name, numbers in runs.items():
        natural = [numbers["natural"]] if numbers["natural"] else []
        lines.append(_line(name, "budget", numbers["points"]))
        lines.append(_line(name, NATURAL_LABEL, natural, "*", connected=False))
    return _drawn(3.5, lines, (), "mean thinking tokens")


def colored(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every model with its colour."""
    spare = iter(OTHERS * len(names))
    return ((name, COLORS.get(name) or next(spare)) for name in names)


def _line(
    model: str,
    kind: str,
    runs: Sequence[Run],
    marker: str = "o",
    *,
    connected: bool = True,
    axis: str = "mean_thinking_tokens",
) -> Line:
    drawn = _sorted(runs, axis)
    return Line(
        model,
        kind,
        [run[axis] or 0.0 for run in drawn],
        [run["accuracy_pct"] for run in drawn],
        [run["accuracy_interval_pct"] for run in drawn],
        marker,
        connected,
    )


def _sorted(runs: Sequence[Run], axis: str = "mean_thinking_tokens") -> list[Run]:
    """What can be drawn, by its compute."""
    return sorted((run for run in runs if run["accuracy_pct"] is not None), key=lambda run: run[axis] or 0.0)


def _drawn(height_in: float, lines: Sequence[Line], paper: Sequence[Curve], name: str) -> Figure:
    """All lines, the paper's beneath them, on one axis of compute called `name`."""
    figure, axes = new_axes(height_in)
    lines = [line for line in lines if line.x]
    seen = [x for line in lines for x in line.x] + [tokens for curve in paper for tokens in curve.tokens]
    zero = _zero(seen)
    handles = _draw_paper(axes, paper)
    colors = dict(colored(list(dict.fromkeys(line.model for line in lines))))
    for line in lines:
        _draw(axes, colors[line.model], line, zero)
    _compute_axis(axes, seen, zero, name)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("accuracy, %")
    _legend(figure, [*handles, *_entries(lines, colors)])
    return figure


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    if handles:
        columns = 3 if max(len(handle.get_label()) for handle in handles) <= LONGEST_IN_3_COLUMNS else 2
        spacing = {"columnspacing": 1.2, "handlelength": 1.5, "handletextpad": 0.5}
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, **spacing)


def _zero(seen: Sequence[float]) -> float:
    """Where no thinking at all stands: one power of two before everything else."""
    least = min((x for x in seen if x > 0), default=2.0)
    return 2.0 ** (ceil(log2(least)) - 1)


def _draw(axes: Axes, color: str, line: Line, zero: float) -> None:
    x = [tokens or zero for tokens in line.x]
    if line.intervals:
        low, high = zip(*line.intervals, strict=True)
        axes.vlines(x, low, high, color=color, alpha=0.35, linewidth=2.2)
    axes.plot(x, line.y, color=color, **_style(line), linewidth=1.8, label=line.label)


def _style(line: Line) -> dict[str, Any]:
    size = 12 if line.marker == "*" else 6
    return {"marker": line.marker, "markersize": size, "linestyle": "-" if line.connected else "none"}


def _draw_paper(axes: Axes, curves: Sequence[Curve]) -> list[Any]:
    """The paper's own points, beneath everything."""
    drawn: list[Any] = []
    for number, curve in enumerate(curves):
        drawn += axes.plot(
            curve.tokens,
            curve.accuracy_pct,
            marker=PAPER_MARKERS[number % len(PAPER_MARKERS)],
            linestyle="--",
            color=REST,
            markersize=4,
            linewidth=1.2,
            label=f"paper, {curve.method}",
            zorder=1,
        )
    return drawn


def _entries(lines: Sequence[Line], colors: Mapping[str, str]) -> list[Any]:
    """One entry per model and one per kind, instead of one for every pair of them."""
    from matplotlib.lines import Line2D

    kinds = {line.kind: line for line in lines}
    models = [Line2D([], [], color=color, linewidth=4, label=model) for model, color in colors.items()]
    marks = [Line2D([], [], color=INK, **_style(line), linewidth=1.2, label=kind) for kind, line in kinds.items()]
    return [*models, *marks]


def _compute_axis(axes: Axes, seen: Sequence[float], zero: float, name: str) -> None:
    """Powers of two, and a 0 before them where something stands there."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    has_zero = any(not x for x in seen)
    positive = [x for x in seen if x > 0] or [2 * zero]
    powers = _ticks(min(positive), max(positive))
    ticks = [zero, *powers] if has_zero else powers
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([*(["0"] if has_zero else []), *map(_short, powers)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim((zero if has_zero else min(positive)) / MARGIN, max(positive) * MARGIN)
    axes.set_xlabel(f"{name} (log scale)")


def _ticks(low: float, high: float) -> list[float]:
    """Powers of two from `low` to `high`; where that is less than three, what lies in the middle of them, too."""
    first, last = ceil(log2(low / MARGIN)), floor(log2(high * MARGIN))
    step = 1 + max(0, last - first) // MOST_TICKS
    powers = [2.0**power for power in range(first, last + 1, step)]
    if len(powers) >= LEAST_TICKS:
        return powers
    between = (step * 2.0**power for power in range(first - 1, last + 1) for step in (1, 1.5))
    return [tick for tick in between if low / MARGIN <= tick <= high * MARGIN]


def _short(tokens: float) -> str:
    return f"{tokens / 1024:g}K" if tokens >= 1024 else f"{tokens:g}"
