"""From a record with any field names to a question.

Names that data sets use are found by themselves, in any case; a `Fields` value overrides them one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import Field

from s1.config import Config
from s1.errors import UserError
from s1.grading.extract import last_boxed
from s1.sources.records import Record

CANDIDATES = {
    "question": ("question", "problem", "prompt", "instruction", "input"),
    "answer": ("answer", "final_answer", "gtruth_answer", "reference", "label", "target"),
    "solution": ("solution", "rationale", "worked_solution"),
    "domain": ("domain", "subject", "category", "type", "source_type"),
    "passage": ("passage",),
    "options": ("options", "choices"),
}
_LAST_CHARS, _SHORT_CHARS = 20_000, 60
# The way gsm8k writes an answer: worked text, then the result after four hashes.
_WORKED_ANSWER = re.compile(r"\A(?P<solution>.+?)\n?\s*####\s*(?P<answer>[^\n]+?)\s*\Z", re.DOTALL)


class Fields(Config):
    """Which field of a record holds what; a field that is left out is found by its usual names."""

    question: str | None = Field(
        default=None, description="Field with the question; recognised by default: question, problem, …"
    )
    answer: str | None = Field(
        default=None, description="Field with the reference answer; recognised by default: answer, label, …"
    )
    solution: str | None = Field(
        default=None, description="Field with a worked solution; recognised by default: solution, …"
    )
    domain: str | None = Field(
        default=None, description="Field with the subject; recognised by default: domain, subject, type, …"
    )
    source: str | None = Field(
        default=None, description="Field that says where the question comes from; by default the file or data set."
    )


@dataclass(frozen=True)
class RawQuestion:
    """A question as its source gives it. `metadata` is what the source's own verifier needs."""

    question: str
    answer: str | None
    source: str
    domain: str | None = None
    solution: str | None = None
    metadata: Mapping[str, Any] | None = None
    where: str = ""  # file and row


def to_question(record: Record, fields: Fields, source: str) -> RawQuestion:
    """The question of `record`. UserError, with file and row, when it has none."""
    names = {name.lower(): name for name in record.values}
    try:
        found = {what: _text(record, _chosen(record, fields, what, names)) for what in CANDIDATES}
    except RecursionError as error:
        raise UserError(f"{record.where}: a field is nested too deeply to be text") from error
    question = found["question"]
    if question is None:
        raise UserError(f"{record.where}: no question ({_why(record, fields)})")
    answer, solution = split_worked_answer(found["answer"], found["solution"])
    if answer is None and solution is not None:
        answer = answer_of(solution)
    if fields.source is not None:
        named = _text(record, _chosen(record, fields, "source", names))
        source = f"{source.partition(':')[0]}:{named}" if named else source
    parts = (found["passage"], question, found["options"])
    text = "\n".join(part for part in parts if part is not None)
    return RawQuestion(text, answer, source, found["domain"], solution, where=record.where)


def split_worked_answer(answer: str | None, solution: str | None) -> tuple[str | None, str | None]:
    """`worked text #### 42` becomes the answer 42 and, when there is no other, the solution."""
    match = _WORKED_ANSWER.match(answer) if answer else None
    if match is None:
        return answer, solution
    return match["answer"], solution or match["solution"].strip()


def answer_of(solution: str) -> str | None:
    """The final answer that a worked solution ends in: its last box, or all of it when it is one short line."""
    boxed = last_boxed(solution[-_LAST_CHARS:])
    if boxed is not None and boxed.strip():
        return boxed.strip()
    text = solution.strip()
    return text if 0 < len(text) <= _SHORT_CHARS and "\n" not in text else None


def _chosen(record: Record, fields: Fields, what: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the fields to try, the best first."""
    wanted = getattr(fields, what, None)
    if wanted is None:
        return tuple(names[name] for name in CANDIDATES[what] if name in names)
    if wanted not in record.values:
        raise UserError(
            f"{record.where}: no field {wanted!r} for the {what}; the fields are {', '.join(sorted(record.values))}"
        )
    return (wanted,)


def _why(record: Record, fields: Fields) -> str:
    if any(name.lower() in CANDIDATES["question"] or name == fields.question for name in record.values):
        return "the field is empty; fill or remove the row"
    return f"the fields are {', '.join(sorted(record.values)) or 'none'}; name the right one with --fields.question"


def _text(record: Record, names: tuple[str, ...]) -> str | None:
    """The first field that says something, as text."""
    for name in names:
        text = as_text(record.values[name])
        if text is not None:
            return text
    return None


def as_text(value: Any) -> str | None:
    """A value as text: numbers as people write them, lists one element per line, nothing as None."""
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        # JSON and CSV tools write 27 as 27.0; the answer is 27.
        return None if value != value else str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, list | tuple):
        texts = (as_text(item) for item in cast(list[Any], value))
        return "\n".join(text for text in texts if text is not None) or None
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value).strip() or None
