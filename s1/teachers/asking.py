"""Asking a paid service about one question: permit, request, pause, again; at most as often as allowed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from s1.teachers.limiter import Result, Stop
from s1.teachers.protocol import PASSING, REFUSED, UNREACHED, Question, Status, Teacher, TraceOutcome, asked
from s1.teachers.service import Service

# Makes an outcome durable and returns it; an outcome that ends the job when that cannot be done.
Keep = Callable[[TraceOutcome], Awaitable[TraceOutcome]]


class Gate(Protocol):
    """Where permits for one service come from."""

    async def enter(self) -> int | Stop:
        """A permit for one request, as soon as there is one; or why there will be none."""
        ...

    async def leave(self, permit: int, result: Result) -> None:
        """Give the permit back and say how the request ended."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the job stops."""
        ...


async def ask_patiently(
    teacher: Teacher, question: Question, gate: Gate, service: Service, draw: random.Random, keep: Keep
) -> TraceOutcome:
    """The outcome of the last request of at most `service.retry.attempts`; only passing failures are asked again.

    Its cost is that of all of them. A permit is given back when `keep` has made durable what was paid for: never is
    more unrecorded than is under way. UNASKED when the job stops: a question whose last request failed may be asked in
    the next run.
    """
    retry, patience_s = service.retry, service.limits.give_up_after_s
    kept, cost_usd = TraceOutcome(Status.UNASKED), 0.0
    for attempt in range(1, retry.attempts + 1):
        permit = await gate.enter()
        if isinstance(permit, Stop):
            return TraceOutcome(Status.UNASKED, detail=permit.reason, cost_usd=cost_usd)
        outcome = TraceOutcome(Status.TRANSIENT, cost_usd=service.cost_usd(None, None))
        try:
            outcome = await asked(teacher, question)
            kept = await keep(outcome) if outcome.is_recorded else outcome
        finally:  # also when this worker is being ended
            await gate.leave(permit, result_of(outcome))
        cost_usd += outcome.cost_usd
        if kept.status not in PASSING:
            break
        if attempt < retry.attempts:
            await gate.pause(retry.pause_s(attempt, outcome.retry_after_s, draw, patience_s))
    return replace(kept, cost_usd=cost_usd)


def result_of(outcome: TraceOutcome) -> Result:
    """What limits care about."""
    counts = (outcome.input_tokens, outcome.output_tokens)
    tokens = None if counts == (None, None) else sum(count or 0 for count in counts)
    refusal = outcome.detail if outcome.finish_reason == REFUSED else ""
    unreached = outcome.finish_reason == UNREACHED
    failed = outcome.status in PASSING
    return Result(failed, tokens, outcome.cost_usd, outcome.retry_after_s, refusal, outcome.detail, unreached)
