"""The card of a published data set: what it holds, how it came about, who wrote the traces, under which licences."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s1.artifacts import Manifest
from s1.publication.rows import source_type

NOT_STATED = "not stated"
_STEPS = {
    "traces": "traces",
    "quality": "without faults, not touching a test question",
    "difficulty": "of any difficulty",
    "distinct": "without near-duplicates",
    "selected": "selected",
}
_DIFFICULTY = {"drop_solved": "not solved by a solver", "drop_wrong": "trace not wrong"}


@dataclass(frozen=True)
class Card:
    """What the card is told."""

    title: str
    licence: str  # of the data set as a whole, as the hub names it; empty: not stated
    licences: Mapping[str, str]  # pattern of a source -> its licence
    manifests: Mapping[str, Manifest]  # of the tables of the run, by name


def render(card: Card, rows: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown with the hub's header; `rows` are rows of SELECTION without their long texts."""
    parts = [
        _header(card, len(rows)),
        f"# {card.title}",
        "Questions with the thinking and the answer of a teacher, chosen for supervised fine-tuning by the recipe of "
        "[s1: Simple test-time scaling](https://arxiv.org/abs/2501.19393). The columns are those of the published s1K.",
        "## How the rows were chosen",
        _table(["step", "rows"], funnel(card.manifests)),
        _method(card.manifests["selection"]),
        "## Traces",
        _table(["teacher", "kind", "rows"], _counted(rows, "teacher", "trace_kind")),
        _summaries(rows),
        "## Domains",
        _table(["domain", "rows"], _counted(rows, "domain")),
        "## Sources and licences",
        _table(["source", "rows", "licence"], _sources(card, rows)),
        "The licence of a source holds for its questions and solutions; what is not stated has to be looked up there.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def funnel(manifests: Mapping[str, Manifest]) -> list[tuple[str, int]]:
    """Rows after every step, from the first question that was met."""
    steps: list[tuple[str, int]] = []
    for name, met, kept in (
        ("questions", "questions met", "different questions"),
        ("traces", "asked of a teacher", ""),
    ):
        manifest = manifests.get(name)
        if manifest is not None:
            steps.append((met, manifest.rows_in))
            steps += [(kept, manifest.rows_out)] if kept else []
    selection = manifests["selection"]
    found = selection.facts.get("funnel", {})
    left_out = ", ".join(label for option, label in _DIFFICULTY.items() if selection.config.get(option, True))
    labels = _STEPS | ({"difficulty": left_out} if left_out else {})
    return steps + [(label, found[name]) for name, label in labels.items() if name in found]


def licence_of(source: str, licences: Mapping[str, str]) -> str:
    """What is known of the licence of a source."""
    return next((text for pattern, text in licences.items() if fnmatch.fnmatchcase(source, pattern)), NOT_STATED)


def _header(card: Card, num_rows: int) -> str:
    size = next(
        (name for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")) if num_rows < most),
        "100K<n<1M",
    )
    lines = ["---", f"pretty_name: {_quoted(card.title)}"]
    lines += [f"license: {card.licence}"] if card.licence else []
    lines += ["language:", "- en", "task_categories:", "- text-generation", "tags:", "- reasoning", "- s1"]
    lines += ["size_categories:", f"- {size}", "configs:", "- config_name: default", "  data_files:"]
    return "\n".join([*lines, "  - split: train", "    path: data/train-*.parquet", "---"])


def _method(selection: Manifest) -> str:
    names = ("method", "size", "seed", "near_duplicates", "quality_weight", "quotas")
    chosen = [f"{name} {selection.config[name]}" for name in names if selection.config.get(name)]
    dropped = ", ".join(f"{count} {reason}" for reason, count in selection.dropped.items())
    return f"Chosen with {', '.join(chosen)}. Left out: {dropped or 'nothing'}. Code version {selection.code_version}."


def _summaries(rows: Sequence[Mapping[str, Any]]) -> str:
    if not any(row["trace_kind"] == "summary" for row in rows):
        return ""
    return "Traces of the kind `summary` are summaries of the thinking that the service gives out, not the thinking."


def _sources(card: Card, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    counts = Counter(source_type(row) for row in rows)
    return [(source, count, licence_of(source, card.licences)) for source, count in counts.most_common()]


def _counted(rows: Sequence[Mapping[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    counts = Counter(tuple(row[column] or "unknown" for column in columns) for row in rows)
    return [(*values, count) for values, count in counts.most_common()]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(str(value).split()).replace("|", "\\|")


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'
