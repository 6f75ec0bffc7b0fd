"""The report's figures, drawn with matplotlib: data in, `Figure` out. Those of the evaluation are in `curves`.

They are drawn narrow (the width of a telephone), so that the text stays readable when a page shows them smaller. Ink
and lines are drawn in two marker colours that `inline_svg` turns into the page's CSS variables; the data colours keep
a contrast of 3:1 and more on white and on black alike.
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, LINE = "#1b1e23", "#c9ced6"
CSS = {INK: "var(--ink)", LINE: "var(--line)"}
TUNED, BASE, REST = "#d95f02", "#3b82c4", "#8b929c"

WIDTH_IN = 4.2
STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "s1",
}


def new_axes(height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.add_subplot()


Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw with our style, whatever matplotlibrc says, and leave the global one alone."""

    @functools.wraps(draw)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        import matplotlib

        rc: Any = {**matplotlib.rcParamsDefault, "backend": "agg", **STYLE}
        with matplotlib.rc_context(rc):
            return draw(*args, **kwargs)

    return wrapper


@styled
def funnel(steps: Sequence[tuple[str, int]]) -> Figure:
    """How many rows are left after each step, as (label, rows), in order."""
    figure, axes = new_axes(0.5 + 0.34 * len(steps))
    labels, counts = zip(*steps, strict=True)
    largest = max(1, *counts)
    axes.barh(range(len(counts)), counts, color=BASE, height=0.66)
    axes.set_yticks(range(len(counts)), labels)
    axes.invert_yaxis()
    for position, count in enumerate(counts):
        axes.annotate(f"{count:,}", (count, position), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, largest * 1.16)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("rows")
    axes.locator_params(axis="x", nbins=5)
    return figure


@styled
def embedding_map(points: np.ndarray, selected: np.ndarray, explained: tuple[float, float]) -> Figure:
    """Questions on the plane of the first two principal components.

    points: (N, 2); selected: (N,) bool; explained: the share of the variance that each component carries.
    """
    figure, axes = new_axes(3.9)
    many = len(points) > 2000
    style: dict[str, Any] = {"linewidths": 0, "rasterized": many}
    rest, picked = points[~selected], points[selected]
    label = f"not selected ({len(rest):,})"
    axes.scatter(rest[:, 0], rest[:, 1], s=4 if many else 12, c=REST, alpha=0.55, label=label, **style)
    label = f"selected ({len(picked):,})"
    axes.scatter(picked[:, 0], picked[:, 1], s=6 if many else 14, c=TUNED, alpha=0.85, label=label, **style)
    axes.set_xlabel(f"first component ({100 * explained[0]:.0f}% of the variance)")
    axes.set_ylabel(f"second component ({100 * explained[1]:.0f}%)")
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    figure.legend(loc="outside upper left", ncols=2, markerscale=1.6, handletextpad=0.2)
    return figure


@styled
def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> Figure:
    """Training loss over optimiser steps, each step and a running mean."""
    figure, axes = new_axes(2.9)
    axes.plot(steps, losses, color=TUNED, alpha=0.4, linewidth=1, label="each step")
    window = max(1, len(losses) // 12)
    if window > 1:
        axes.plot(steps, running_mean(losses, window), color=TUNED, linewidth=2, label=f"mean of {window} steps")
        axes.legend(loc="upper right")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token")
    return figure


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Mean of the last `window` values at every position, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def png(figure: Figure) -> bytes:
    """The figure on white, for files."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=200, facecolor="white")
    return sink.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure on white, for print and slides."""
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", facecolor="white", metadata={"Date": None})
    return sink.getvalue()


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element that takes ink and line colours from the page. Identifiers start with `name`."""
    import matplotlib

    sink = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for marker, variable in CSS.items():
        svg = svg.replace(marker, variable)
    for attribute in ("width", "height"):  # the page decides; the viewBox keeps the shape
        svg = re.sub(rf'(<svg[^>]*?) {attribute}="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1).strip()


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Project (N, D) embeddings on their first two principal components: ((N, 2), shares of the variance).

    The sign of a component is fixed (its largest coefficient is positive), so that the same data gives the same map.
    """
    centred = np.asarray(embeddings, dtype=np.float64)
    centred = centred - centred.mean(axis=0, keepdims=True)
    covariance = centred.T @ centred  # (D, D): small, whatever N is
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :2]  # (D, 2), largest first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    total = max(float(values.sum()), 1e-12)
    shares = [max(0.0, float(value)) / total for value in values[::-1][:2]]
    return centred @ axes, (shares[0], shares[1])
