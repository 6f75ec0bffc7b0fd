"""Every method beside every other, as in the paper's table 3: how well it keeps to what is asked, how good it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s1.evaluation.report.curves import Summary, colored
from s1.evaluation.report.figures import WIDTH_IN, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {"control": "Control, %", "performance": "Performance, %"}


def comparable(summary: Summary) -> bool:
    """Whether there is more than one method to draw."""
    return any(len(numbers["methods"]) > 1 for numbers in summary.values())


@styled
def method_comparison(summary: Summary) -> Figure:
    """Control and Performance of every method of every model, with their intervals."""
    from matplotlib.figure import Figure

    rows = [
        (f"{name.replace('_', ' ')}{f', {model}' if len(summary) > 1 else ''}", color, method)
        for model, color in colored(list(summary))
        for name, method in summary[model]["methods"].items()
    ]
    figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.36 * len(rows)), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        for at, (_, color, method) in enumerate(rows):
            _draw(axes, at, color, method, metric)
        axes.set_xlim(-5, 105)
        axes.set_xticks([0, 50, 100])
        axes.set_xlabel(title)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    figure.axes[0].set_yticks(range(len(rows)), [label for label, _, _ in rows])
    figure.axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _draw(axes: Axes, at: int, color: str, method: Mapping[str, Any], metric: str) -> None:
    value, interval = method[f"{metric}_pct"], method[f"{metric}_interval_pct"]
    if value is None:
        return
    if interval is not None:
        axes.hlines(at, *interval, color=color, alpha=0.35, linewidth=4)
    axes.plot([value], [at], marker="o", color=color, markersize=6.5)
