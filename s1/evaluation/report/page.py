"""The report as one HTML file: styles, figures and text inside, no script, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1.evaluation.report.transcripts import Transcript
from s1.evaluation.summary import percent, run_label, signed

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Figure:
    """A figure of the page; `svg` is trusted markup of our own drawing."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Page:
    """Everything that the page shows."""

    title: str
    subtitle: str
    metrics: Mapping[str, Any]  # see `numbers.metrics`
    evaluation: Sequence[Figure]  # the curve over thinking tokens first
    beside_paper: tuple[Sequence[str], Sequence[Mapping[str, Any]]]  # columns, rows; see `numbers.beside_paper`
    figures: Sequence[Figure]  # of data and training
    coverage: Sequence[tuple[str, int, int]]  # domain, candidates, selected
    transcripts: Sequence[Transcript]
    facts: Sequence[tuple[str, str]]  # how the numbers came about
    configs: Sequence[tuple[str, str]]  # stage, its configuration as YAML


def render(page: Page) -> str:
    """The page as HTML. Text of models, teachers and data sets is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"percent": percent, "signed": signed, "seconds": seconds, "run_label": run_label}
    environment.filters |= {"share_bounds": share_bounds, "slope_bounds": slope_bounds}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page=page)


def share_bounds(interval: Sequence[float] | None) -> str:
    """The bounds of a percentage."""
    return "" if interval is None else f"{interval[0]:.0f} to {interval[1]:.0f}%"


def slope_bounds(interval: Sequence[float] | None) -> str:
    """The bounds of what can be negative."""
    return "" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
