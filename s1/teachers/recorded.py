"""Traces that exist already: worked solutions that came with the questions, or a file with thinking and attempt."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from s1 import hashing
from s1.config import Config
from s1.errors import UserError
from s1.sources import records
from s1.sources.mapping import CANDIDATES, as_text
from s1.sources.records import Fault, Record
from s1.teachers.protocol import Question, Status, TraceOutcome, classified, split_think_tags

THINKING = ("thinking", "reasoning", "reasoning_content", "thinking_trajectories", "message_thinking")
ATTEMPT = ("attempt", "response", "content", "message_content", "output")
Trace = tuple[str | None, str | None]  # thinking and attempt
_TAGGED = re.compile(r"<Thought>(.*?)</Thought>\s*(?:<Output>)?(.*?)(?:</Output>)?\s*\Z", re.DOTALL)


class Recorded(Config):
    """Where recorded traces are."""

    path: str = Field(
        default="",
        description="File, folder, glob or hub:owner/name with question, thinking and attempt; if empty, the "
        "questions' own solutions.",
    )
    question: str | None = Field(default=None, description="Field with the question; recognised by default.")
    thinking: str | None = Field(default=None, description="Field with the thinking; recognised by default.")
    attempt: str | None = Field(default=None, description="Field with the final answer; recognised by default.")
    on_fault: Literal["stop", "set_aside"] = Field(
        default="stop", description="What to do with an unusable row: stop and name it, or set it aside and count it."
    )
    label: str = Field(default="recorded", description="Who wrote the traces, for the column teacher.")
    kind: str = Field(
        default="recorded", description="What the traces are, for the column trace_kind: recorded, raw or summary."
    )


def check(settings: Recorded) -> None:
    """Raise UserError when the file is not there. Hub data sets are looked up when they are read."""
    if settings.path:
        records.check(settings.path)


class RecordedTeacher:
    """Looks traces up; a question that has none is declined."""

    def __init__(self, settings: Recorded) -> None:
        self.name = settings.label
        self.trace_kind = settings.kind
        self._by_id = load(settings) if settings.path else None

    async def trace(self, question: Question) -> TraceOutcome:
        """The recorded trace of `question`."""
        if self._by_id is None:
            return from_solution(question)
        packed = self._by_id.get(question.question_id)
        if packed is None:
            return TraceOutcome(Status.DECLINED, detail="no recorded trace")
        return classified(*unpack(packed), "recorded")


def from_solution(question: Question) -> TraceOutcome:
    """The worked solution as thinking and the reference as attempt; without a reference its last paragraph."""
    solution = (question.solution or "").strip()
    if not solution:
        return TraceOutcome(Status.DECLINED, detail="no worked solution")
    if question.answer:
        return classified(solution, question.answer, "recorded")
    thinking, _, attempt = solution.rpartition("\n")
    return classified(thinking, attempt, "recorded")


def load(settings: Recorded) -> dict[str, bytes]:
    """Thinking and attempt of every row, packed, by question id; the first row of a question counts.

    Every worker holds all of them, at about a third of their size. Of what is set aside `num_repeated` tells.
    """
    on_fault = records.stop if settings.on_fault == "stop" else _passed_over
    return {
        question_id: zlib.compress(json.dumps(trace).encode(), 1)
        for question_id, trace in _traces(settings, on_fault)
        if trace is not None
    }


def num_repeated(settings: Recorded, on_fault: Fault) -> int:
    """How many rows are about a question that an earlier row is about: `load` passes over them.

    `on_fault` is told of every row that cannot be used, when these are to be set aside.
    """
    traces = _traces(settings, records.stop if settings.on_fault == "stop" else on_fault)
    return sum(trace is None for _, trace in traces)


def _passed_over(line: str, num_rows: int = 1) -> None:
    """The fault is told elsewhere."""


def _traces(settings: Recorded, on_fault: Fault) -> Iterator[tuple[str, Trace | None]]:
    """The id of the question of every row that can be used, with its thinking and attempt; None for those of a question
    that an earlier row was about.
    """
    met: set[str] = set()
    for record in records.read(settings.path, on_fault):
        try:
            question_id = _question_id(record, settings)
            trace = None if question_id in met else _thinking_and_attempt(record, settings)
        except UserError as error:
            on_fault(str(error))
            continue
        met.add(question_id)
        yield question_id, trace


def _question_id(record: Record, settings: Recorded) -> str:
    question = _field(record, settings.question, CANDIDATES["question"], "question")
    if question is None:
        raise UserError(f"{record.where}: no question; every recorded trace needs the question that it answers")
    return hashing.question_id(question)


def unpack(packed: bytes) -> Trace:
    """Thinking and attempt of a row of `load`."""
    thinking, attempt = json.loads(zlib.decompress(packed))
    return thinking, attempt


def _thinking_and_attempt(record: Record, settings: Recorded) -> Trace:
    has_thinking = settings.thinking or any(name.lower() in THINKING for name in record.values)
    attempt = _field(record, settings.attempt, ATTEMPT, "attempt")
    if has_thinking:
        return _field(record, settings.thinking, THINKING, "thinking"), attempt
    # One text with both in it: Marco-o1's tags, or R1's.
    tagged = _TAGGED.match((attempt or "").strip())
    return (tagged[1], tagged[2]) if tagged else split_think_tags(attempt or "")


def _field(record: Record, wanted: str | None, usual: tuple[str, ...], what: str) -> str | None:
    if wanted is not None:
        if wanted not in record.values:
            known = ", ".join(sorted(record.values))
            raise UserError(f"{record.where}: no field {wanted!r} for the {what}; the fields are {known}")
        return as_text(record.values[wanted])
    names: Mapping[str, Any] = {name.lower(): value for name, value in record.values.items()}
    found = [name for name in usual if name in names]
    if not found:
        known = ", ".join(sorted(record.values))
        raise UserError(f"{record.where}: no {what} (the fields are {known}); name it with --recorded.{what}")
    return next((text for name in found if (text := as_text(names[name])) is not None), None)
