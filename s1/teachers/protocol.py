"""What every teacher does: one question in, one classified outcome out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

REFUSED = "refused"  # finish reason of a request that the service did not take on


class Status(StrEnum):
    """How a request ended. Only `TRANSIENT` ones may be asked again; `FATAL` ends the job."""

    OK = "ok"
    TRUNCATED = "truncated"  # the token limit came first
    MALFORMED = "malformed"  # no thinking, no answer, or an answer that contradicts a teacher's own proof
    DECLINED = "declined"  # the teacher does not do this question: refused, blocked, or not its kind
    TRANSIENT = "transient"  # bounded retries were used up
    FATAL = "fatal"  # bad key, unknown model: no other question would fare better


@dataclass(frozen=True)
class Question:
    """What a teacher may know about a question: columns of QUESTIONS."""

    question_id: str
    question: str
    answer: str | None = None
    domain: str | None = None
    solution: str | None = None
    metadata: str | None = None


@dataclass(frozen=True)
class TraceOutcome:
    """What came of one question. `thinking` and `attempt` count only when the status is `OK`.

    Who was asked (`teacher`, `trace_kind`) is filled in by `asked`.
    """

    status: Status
    thinking: str = ""
    attempt: str = ""
    finish_reason: str = ""
    detail: str = ""  # why, for a person
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float = 0.0
    teacher: str = ""
    trace_kind: str = ""

    @property
    def is_final(self) -> bool:
        """Whether asking again would only cost again: such an outcome belongs into the ledger.

        A request that was refused as such cost nothing, and may be accepted when the service is set up otherwise.
        """
        return self.status not in (Status.TRANSIENT, Status.FATAL) and self.finish_reason != REFUSED


@runtime_checkable
class Teacher(Protocol):
    """Built on the worker that uses it; asked from one event loop, many questions at a time."""

    @property
    def name(self) -> str:
        """Value of the column `teacher`."""
        ...

    @property
    def trace_kind(self) -> str:
        """raw, summary, worked or recorded."""
        ...

    async def trace(self, question: Question) -> TraceOutcome:
        """The outcome for one question; what fails is an outcome too, not an exception."""
        ...


async def asked(teacher: Teacher, question: Question) -> TraceOutcome:
    """The teacher's outcome with the teacher's name on it."""
    outcome = await teacher.trace(question)
    return replace(outcome, teacher=teacher.name, trace_kind=teacher.trace_kind)


def classified(thinking: str | None, attempt: str | None, finish_reason: str, **usage: object) -> TraceOutcome:
    """The outcome of a response that arrived: cut, without thinking, without answer, or good."""
    thinking, attempt = (thinking or "").strip(), (attempt or "").strip()
    if finish_reason == "length":
        status, detail = Status.TRUNCATED, "the token limit came before the end of the answer"
    elif finish_reason in ("content_filter", "refusal"):
        status, detail = Status.DECLINED, f"finish reason {finish_reason}"
    elif not thinking:
        status, detail = Status.MALFORMED, "no thinking"
    elif not attempt:
        status, detail = Status.MALFORMED, "no answer after the thinking"
    else:
        status, detail = Status.OK, ""
    return TraceOutcome(status, thinking, attempt, finish_reason, detail, **usage)  # pyright: ignore[reportArgumentType]


def split_think_tags(content: str) -> tuple[str | None, str]:
    """Thinking and answer of a text that carries `<think>…</think>`; the opening tag may have been in the prompt."""
    head, closed, tail = content.partition("</think>")
    if closed:
        return head.partition("<think>")[2] if "<think>" in head else head, tail
    opened = content.partition("<think>")
    return (opened[2], opened[0]) if opened[1] else (None, content)
