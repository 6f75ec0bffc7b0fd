"""What every teacher does: one question in, one classified outcome out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

REFUSED = "refused"  # finish reason of a request that the service did not take on
UNREACHED = "unreached"  # finish reason of a request that was not sent, since no connection came about


class Status(StrEnum):
    """How a request ended. Only `PASSING` ones may be asked again; `FATAL` ends the job."""

    OK = "ok"
    TRUNCATED = "truncated"  # the token limit came first
    BLOCKED = "blocked"  # the service's filters stopped the question or the answer
    RECITATION = "recitation"  # stopped because the answer repeated protected text
    MALFORMED = "malformed"  # no thinking, no answer, or an answer that contradicts a teacher's own proof
    DECLINED = "declined"  # not this teacher's kind of question, or a request that the service does not accept
    RATE_LIMITED = "rate_limited"  # the service asks for fewer requests
    TRANSIENT = "transient"  # timeouts, broken connections, the service's own faults
    FATAL = "fatal"  # bad key, unknown model: no other question would fare better
    UNASKED = "unasked"  # the job stopped before this question's turn


PASSING = frozenset({Status.RATE_LIMITED, Status.TRANSIENT})  # may go well the next time
HANDED_ON = frozenset({Status.DECLINED, Status.BLOCKED, Status.RECITATION})  # another teacher may do better
_BLOCKED_REASONS = frozenset({"content_filter", "refusal"})
_WITH_DIGITS = re.compile(r"(?<!\S)(?<!HTTP )(?<!error )\S*\d\S*")
_BROKEN_OFF_REASONS = frozenset({"abort", "error"})  # of vLLM and SGLang; of OpenRouter when its provider fails


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
    """What came of one request. `thinking` and `attempt` count only when the status is `OK`.

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
    model_version: str = ""  # which model answered, as the service says
    retry_after_s: float | None = None  # when the service wants to be asked again, if it said so

    @property
    def is_final(self) -> bool:
        """Whether asking again would only cost again.

        A request that was refused as such cost nothing, and may be accepted when the service is set up otherwise.
        """
        passing = self.status in PASSING or self.status in (Status.FATAL, Status.UNASKED)
        return not passing and self.finish_reason != REFUSED

    @property
    def is_recorded(self) -> bool:
        """Whether it belongs into the ledger: it is final, or was paid for all the same."""
        return self.is_final or self.cost_usd > 0


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
        """The outcome of one request; what fails is an outcome too, not an exception."""
        ...


async def asked(teacher: Teacher, question: Question) -> TraceOutcome:
    """The teacher's outcome with the teacher's name on it."""
    outcome = await teacher.trace(question)
    return replace(outcome, teacher=teacher.name, trace_kind=teacher.trace_kind)


def classified(thinking: str | None, attempt: str | None, finish_reason: str, **usage: object) -> TraceOutcome:
    """The outcome of a response that arrived: cut, blocked, without thinking, without answer, or good."""
    thinking, attempt = storable(thinking or "").strip(), storable(attempt or "").strip()
    if finish_reason == "length":
        status, detail = Status.TRUNCATED, "the token limit came before the end of the answer"
    elif finish_reason in _BLOCKED_REASONS:
        status, detail = Status.BLOCKED, f"finish reason {finish_reason}"
    elif finish_reason in _BROKEN_OFF_REASONS:
        status, detail = Status.TRANSIENT, f"broken off by the service: finish reason {finish_reason}"
    elif not thinking:
        status, detail = Status.MALFORMED, "no thinking"
    elif not attempt:
        status, detail = Status.MALFORMED, "no answer after the thinking"
    else:
        status, detail = Status.OK, ""
    finish_reason = storable(finish_reason)
    return TraceOutcome(status, thinking, attempt, finish_reason, detail, **usage)  # pyright: ignore[reportArgumentType]


def storable(text: str) -> str:
    """`text` as it can be written to a table: half a surrogate pair, which JSON can carry, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def without_ids(detail: str) -> str:
    """What a detail has in common with others of its kind: words with digits are left out (ids, counts, times), but
    for the status.
    """
    return _WITH_DIGITS.sub("#", detail)


def split_think_tags(content: str) -> tuple[str | None, str]:
    """Thinking and answer of a text that carries `<think>…</think>`; the opening tag may have been in the prompt."""
    head, closed, tail = content.partition("</think>")
    if closed:
        return head.partition("<think>")[2] if "<think>" in head else head, tail
    opened = content.partition("<think>")
    return (opened[2], opened[0]) if opened[1] else (None, content)
