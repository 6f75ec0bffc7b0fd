"""Which figures of the evaluation there are to draw: over all questions, and for every benchmark alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s1.evaluation import paper
from s1.evaluation.report import curves, methods
from s1.evaluation.report.curves import Summary


@dataclass(frozen=True)
class Drawing:
    """A figure of some kind. `benchmark` is empty where it shows all questions."""

    kind: str
    figure: Any
    benchmark: str = ""

    @property
    def name(self) -> str:
        """What its files are called."""
        # A benchmark is called what its user likes, slashes and spaces included.
        return "_".join(filter(None, (self.kind, re.sub(r"\W+", "-", self.benchmark))))


def evaluation(
    summary: Summary, benchmarks: Mapping[str, Summary], papers: Collection[str], main: str, others: Summary
) -> list[Drawing]:
    """The curves of all questions, those of every benchmark, then the methods beside each other in the same way.

    papers: benchmarks of the paper, by its names, whose points are laid under the curves of all questions; a
    benchmark of the paper has its own points under it in any case.
    others: models of other runs, to stand beside `main`.
    """
    own = {paper.NAMES[name] for name in benchmarks if name in paper.NAMES} if len(benchmarks) == 1 else set[str]()
    drawn = list(_curves("", summary, {*papers, *own}))
    each = benchmarks if len(benchmarks) > 1 else {}
    for name, part in each.items():
        drawn += _curves(name, part, {paper.NAMES[name]} if name in paper.NAMES else ())
    for name, part in {"": summary, **each}.items():
        if methods.comparable(part):
            main_first = dict(sorted(part.items(), key=lambda item: item[0] != main))
            drawn.append(Drawing("methods", methods.method_comparison(main_first), name))
    if others:
        drawn.append(Drawing("comparison", curves.comparison({main: summary[main], **others})))
    return drawn


def _curves(benchmark: str, summary: Summary, papers: Collection[str]) -> Iterator[Drawing]:
    """Accuracy over compute of one set of questions: in sequence, in parallel, of what rejection sampling accepted."""
    yield Drawing("scaling", curves.scaling_curve(summary, _published(papers, ("1",))), benchmark)
    if any(len(curves.parallel_lines(model, part)) > 1 for model, part in summary.items()):
        yield Drawing("parallel", curves.parallel_curve(summary, _published(papers, ("7", "4b"))), benchmark)
    if any("rejection_sampling" in part["methods"] for part in summary.values()):
        yield Drawing("rejection", curves.rejection_curve(summary, _published(papers, ("6",))), benchmark)


def _published(papers: Collection[str], figures: Sequence[str]) -> tuple[paper.Curve, ...]:
    """Lines of the paper's `figures` about the benchmarks `papers`."""
    found = (curve for figure in figures for curve in paper.curves(figure=figure) if curve.benchmark in papers)
    return tuple(curve.per_question() for curve in found)
