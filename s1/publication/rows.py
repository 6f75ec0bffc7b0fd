"""Rows of the published s1K schema (its data set card on the hub): the columns that tools written for it expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from s1.grading.kinds import kind_of

PUBLISHED = pa.schema(
    [
        ("solution", pa.string()),  # the worked solution, else the answer
        ("question", pa.string()),
        ("cot_type", pa.string()),  # math | science | coding | crossword
        ("source_type", pa.string()),
        ("metadata", pa.string()),
        ("cot", pa.null()),  # empty in the published set too
        ("thinking_trajectories", pa.list_(pa.string())),  # one for each question here
        ("attempt", pa.string()),
    ]
)
_SCIENCE = range(70, 95)  # codes of the Mathematics Subject Classification outside of mathematics


def published(row: Mapping[str, Any], solution: str | None) -> dict[str, Any]:
    """A row of SELECTION, with the worked solution of its question, in the published schema."""
    return {
        "solution": solution or row["answer"],
        "question": row["question"],
        "cot_type": cot_type(row),
        "source_type": source_type(row),
        "metadata": row["metadata"] or "{}",
        "cot": None,
        "thinking_trajectories": [row["thinking"]],
        "attempt": row["attempt"],
    }


def source_type(row: Mapping[str, Any]) -> str:
    """Where the question comes from, without the kind of the source."""
    return str(row["source"]).removeprefix("hub:").removeprefix("files:")


def cot_type(row: Mapping[str, Any]) -> str:
    """What kind of thinking the question wants, as the published set names it."""
    if "xword" in source_type(row):
        return "crossword"
    if kind_of(row["question"], row["answer"]) == "code":
        return "coding"
    code = (row["domain"] or "").partition(" ")[0]
    return "science" if code.isdecimal() and int(code) in _SCIENCE else "math"
