"""Figures of the evaluation as the paper draws them: accuracy over compute, on a logarithmic axis (figures 1, 4, 6, 7).

Numbers come from `s1.evaluation.summary`; points of the paper itself can be laid under them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s1.evaluation.paper import Curve
from s1.evaluation.report.figures import BASE, REST, TUNED, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Run = Mapping[str, Any]
Summary = Mapping[str, Mapping[str, Any]]

COLORS = {"tuned": TUNED, "base": BASE}
OTHERS = ("#2a9d5c", "#a05fc4", "#b8860b", "#c2466b", "#4f7f86")
SAMPLED = {"majority_voting": "voting", "best_of_n": "best of n", "tree_search": "tree search"}


@dataclass(frozen=True)
class Line:
    """What is drawn in one go: points with their intervals, all in percent."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[Sequence[float]] = ()
    marker: str = "o"
    connected: bool = True


@styled
def scaling_curve(summary: Summary, paper: Sequence[Curve] = ()) -> Figure:
    """Accuracy over mean thinking tokens, one line per model; see `s1.evaluation.summary.summarise`."""
    figure, axes = new_axes(3.6)
    seen = _draw_paper(axes, paper)
    for model, color in _colored(sorted(summary, key=lambda name: name == "tuned")):  # the tuned one on top
        numbers = summary[model]
        natural = [numbers["natural"]] if numbers["natural"] else []
        seen += _draw(axes, color, _line(f"{model}, budget", numbers["points"]))
        seen += _draw(axes, color, _line(f"{model}, natural end", natural, "*", connected=False))
        seen += _draw(axes, color, _line(f"{model}, Wait", numbers["wait"], "^", connected=False))
    _finish(figure, axes, seen, "mean thinking tokens")
    return figure


@styled
def parallel_curve(summary: Summary, paper: Sequence[Curve] = ()) -> Figure:
    """Sequential against parallel: thinking longer, or answering several times (paper, figures 4b and 7).

    Compute is every token of a question, prompts and discarded samples included.
    """
    figure, axes = new_axes(3.6)
    seen = _draw_paper(axes, paper)
    for model, color in _colored(list(summary)):
        for line in parallel_lines(model, summary[model]):
            seen += _draw(axes, color, line)
    _finish(figure, axes, seen, "tokens per question, all samples")
    return figure


def parallel_lines(model: str, numbers: Mapping[str, Any]) -> list[Line]:
    """The budgets in sequence, every majority of samples, every method that samples."""
    forced = [*numbers["points"], *([numbers["natural"]] if numbers["natural"] else []), *numbers["wait"]]
    lines = [_line(f"{model}, sequential", forced, axis="mean_total_tokens")]
    for run in forced:
        elected = run.get("majority_at_k_pct", {})
        if run["mean_total_tokens"] and len(elected) > 1:
            x = [int(k) * run["mean_total_tokens"] for k in elected]
            intervals = list(run["majority_at_k_interval_pct"].values())
            lines.append(Line(f"{model}, majority of {run['setting']}", x, list(elected.values()), intervals, "s"))
    for method, name in SAMPLED.items():
        runs = numbers["methods"].get(method, {}).get("runs", [])
        if runs:
            lines.append(_line(f"{model}, {name}", runs, "D", axis="mean_total_tokens"))
    return [line for line in lines if line.x]


@styled
def rejection_curve(summary: Summary, paper: Sequence[Curve] = ()) -> Figure:
    """Accuracy over the thinking tokens of what rejection sampling accepted (paper, figure 6)."""
    figure, axes = new_axes(3.2)
    seen = _draw_paper(axes, paper)
    for model, color in _colored(list(summary)):
        runs = summary[model]["methods"].get("rejection_sampling", {}).get("runs", [])
        seen += _draw(axes, color, line := _line(f"{model}, rejection sampling", runs))
        for run, x, y in zip(filter(_drawable, sorted(runs, key=_compute)), line.x, line.y, strict=True):
            tries = f"≤ {run['budget']}: {run['mean_tries']:.1f} tries"
            axes.annotate(tries, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7.5)
    _finish(figure, axes, seen, "mean thinking tokens")
    return figure


@styled
def comparison(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Runs over each other: name -> the numbers of one model."""
    figure, axes = new_axes(3.6)
    seen: list[float] = []
    for name, color in _colored(list(runs)):
        numbers = runs[name]
        natural = [numbers["natural"]] if numbers["natural"] else []
        seen += _draw(axes, color, _line(name, numbers["points"]))
        seen += _draw(axes, color, _line("" if numbers["points"] else name, natural, "*", connected=False))
    _finish(figure, axes, seen, "mean thinking tokens")
    return figure


def _colored(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    spare = iter(OTHERS * len(names))
    return ((name, COLORS.get(name) or next(spare)) for name in names)


def _line(
    label: str, runs: Sequence[Run], marker: str = "o", *, connected: bool = True, axis: str = "mean_thinking_tokens"
) -> Line:
    drawn = sorted(filter(_drawable, runs), key=lambda run: _compute(run, axis))
    return Line(
        label,
        [_compute(run, axis) for run in drawn],
        [run["accuracy_pct"] for run in drawn],
        [run["accuracy_interval_pct"] for run in drawn],
        marker,
        connected,
    )


def _compute(run: Run, axis: str = "mean_thinking_tokens") -> float:
    # A logarithm knows no 0: a model that does not think at all stands at the left edge.
    return max(1.0, run[axis] or 0.0)


def _drawable(run: Run) -> bool:
    return run["accuracy_pct"] is not None


def _draw(axes: Axes, color: str, line: Line) -> list[float]:
    """Draw one line; returns the compute of its points."""
    if not line.x:
        return []
    if line.intervals:
        low, high = zip(*line.intervals, strict=True)
        axes.vlines(line.x, low, high, color=color, alpha=0.35, linewidth=1.5)
    axes.plot(
        line.x,
        line.y,
        marker=line.marker,
        linestyle="-" if line.connected else "none",
        color=color,
        markersize=11 if line.marker == "*" else 6,
        label=line.label or None,
        linewidth=1.8,
    )
    return list(line.x)


def _draw_paper(axes: Axes, curves: Sequence[Curve]) -> list[float]:
    """The paper's own points, beneath everything."""
    for curve in curves:
        axes.plot(
            curve.tokens,
            curve.accuracy_pct,
            marker="o",
            linestyle="--",
            color=REST,
            markersize=4,
            linewidth=1.2,
            label=f"paper, {curve.method}",
            zorder=1,
        )
    return [tokens for curve in curves for tokens in curve.tokens]


def _finish(figure: Figure, axes: Axes, seen: Sequence[float], name: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=10))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if seen:
        axes.set_xlim(min(seen) / 1.25, max(seen) * 1.25)
    axes.set_ylim(-3, 103)
    note = "; 0 stands at 1" if min(seen, default=2.0) <= 1 else ""
    axes.set_xlabel(f"{name} (log scale{note})")
    axes.set_ylabel("accuracy, %")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, handletextpad=0.4)


def _short(tokens: float, _: object = None) -> str:
    return f"{tokens / 1024:g}K" if tokens >= 1024 else f"{tokens:g}"
