"""The report as one HTML file: styles, figures and text inside, no script, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1.evaluation.display import DIRECT_LABEL, NATURAL_LABEL, all_names, named_runs, percent, signed
from s1.evaluation.report.transcripts import Transcript

TEMPLATE = Path(__file__).with_name("page.html.j2")
ENDINGS = {
    "natural": "ended by itself",
    "budget": "cut off by its budget",
    "context": "cut off by the context",
    "length": "cut off by the length of the request",
}


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
    main: str  # the model that the run is about
    abstract: Sequence[str]  # sentences
    metrics: Mapping[str, Any]  # see `numbers.metrics`
    evaluation: Sequence[Figure]  # the curve over thinking tokens first
    methods: Sequence[Figure]  # beside each other, over all questions and for every benchmark
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
    environment.filters |= {"percent": percent, "signed": signed, "seconds": seconds}
    environment.filters |= {"share_bounds": share_bounds, "slope_bounds": slope_bounds, "line_ends": line_ends}
    environment.filters |= {"ending": ending}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    models = page.metrics["models"]
    models = {page.main: models[page.main], **models}
    return template.render(page=page, models=models, settings=_settings(models), baselines=_baselines(models))


def _baselines(models: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Model, how it was asked, and the run of it: what a page puts first, as nothing was forced there."""
    named = ((DIRECT_LABEL, "direct"), (NATURAL_LABEL, "natural"))
    return [(model, label, numbers[key]) for model, numbers in models.items() for label, key in named if numbers[key]]


def _settings(models: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """Every setting by its name, with its run of every model; None where a model was not asked so."""
    runs = [named_runs(numbers) for numbers in models.values()]
    return [(name, [named.get(name) for named in runs]) for name in all_names(runs)]


def ending(ended_by: str) -> str:
    """What ended the thinking, for people."""
    return ENDINGS.get(ended_by, f"ended by {ended_by}")


def line_ends(text: str) -> Any:
    """Forced text with its line ends shown; the sign for them is the page's, not part of the text."""
    import markupsafe

    return markupsafe.Markup('<i aria-hidden="true"></i>\n').join(text.split("\n"))


def share_bounds(interval: Sequence[float] | None) -> str:
    """The bounds of a percentage."""
    return "" if interval is None else f"{interval[0]:.0f}\u2013{interval[1]:.0f}"  # an en dash


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
