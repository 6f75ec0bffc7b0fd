"""Ask a model short questions whose replies have to be read: bounded requests, limits and ledger as for a teacher.

A reply that cannot be read is asked for again in other words, so that the ledger does not give the same one back; after
`rounds` requests it stays unread. Too many that stay unread end the job: then the model is not fit for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa
from pydantic import Field, NonNegativeFloat, PositiveInt

from actors import rate_limiter
from actors.teacher_pool import QUESTION_COLUMNS, Pool, stream
from jobs.progress import Progress
from jobs.teacher_watch import Watch
from s1.config import Config, under
from s1.errors import UserError
from s1.teachers import registry, service
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.openai import OpenAI
from s1.teachers.protocol import Status
from s1.teachers.registry import TeacherOptions

Value = TypeVar("Value")
Prompt = Callable[[int], str]  # number of the request, from 1 -> what is asked
# Options that change how is asked, not what is read; the last two may end the asking, they leave no reply out.
HOW = (*under("openai", service.HOW), "pool", "max_unread", "max_usd")
PART_CHARS = 64_000_000  # of the prompts that are held, and handed to the workers, at once
_ANSWERED = frozenset({Status.OK, Status.MALFORMED})  # a model that does not think is no fault here


class AskOptions(Config):
    """Whom to ask, and how often."""

    openai: OpenAI = Field(default=OpenAI(), description="Any endpoint that speaks OpenAI's chat completions.")
    pool: Pool = Field(default=Pool(), description="Workers on Ray.")
    rounds: PositiveInt = Field(default=3, description="Tries to get a readable reply, including the first.")
    max_unread: float = Field(
        default=0.02, ge=0, le=1, description="Share of replies that may stay unreadable; above it, the job ends."
    )
    max_usd: NonNegativeFloat | None = Field(
        default=None, description="Cap on the cost of all replies, including those already recorded."
    )


@dataclass(frozen=True)
class Answers(Generic[Value]):
    """What was read, by key, and what was asked in vain."""

    found: dict[str, Value]
    num_unread: int
    cost_usd: float


def check(options: AskOptions, name: str) -> None:
    """Raise UserError when the endpoint cannot be asked. Asks nobody."""
    service.check(options.openai, name)
    service.check_cap(options.openai, name, options.max_usd)


def check_reached(options: AskOptions, name: str, ledger_uri: str) -> None:
    """Raise UserError when no connection to the endpoint comes about, before anything is started.

    A model that has answered in an earlier run may have nothing left to say: then `ask` does, when it has.
    """
    if options.openai.model not in _read(ledger_uri).teachers():
        service.check_reached(options.openai, name)


def ask(
    options: AskOptions,
    prompts: Mapping[str, Prompt],
    read: Callable[[str], Value | None],
    ledger_uri: str,
    label: str,
    spent_usd: float = 0.0,
) -> Answers[Value]:
    """What `read` makes of the replies; prompts that are the same are asked once. Needs a Ray session.

    `spent_usd` of the cap has been spent before.

    UserError when more than `max_unread` stay unread, or when the asking stops; what was paid for is in the ledger.
    """
    found: dict[str, Value] = {}
    rounds, identity = range(1, options.rounds + 1), options.openai.identity()
    requests = {request_key(prompt(number), identity) for prompt in prompts.values() for number in rounds}
    cost_usd = _read(ledger_uri).in_vain_usd(requests)
    for number in rounds:
        left = {key: prompt for key, prompt in prompts.items() if key not in found}
        keys_of = {keys[0]: keys for keys in by_text(left, number)}
        for part in _parts({key: left[key] for key in keys_of}, number):
            # Of all rounds: a reply of the next one may have been paid for by an earlier run.
            ledger = _read(ledger_uri)
            recorded = [outcome.cost_usd for _, outcome in ledger.find(requests)]
            paid_usd = spent_usd + sum(recorded) + ledger.in_vain_usd(requests)
            if any(request_key(text, identity) not in ledger for text in part.values()):
                service.check_reached(options.openai, f"{label}: openai")
            for row in _replies(options, part, ledger_uri, label, paid_usd, has_answered=bool(recorded)):
                cost_usd += row["cost_usd"] or 0.0
                value = read(row["attempt"] or "") if row["status"] in _ANSWERED else None
                if value is not None:
                    found |= dict.fromkeys(keys_of[row["question_id"]], value)
    num_unread = len(prompts) - len(found)
    if num_unread > options.max_unread * len(prompts):
        raise UserError(
            f"{label}: {num_unread} of {len(prompts)} replies of {options.openai.model} could not be read after "
            f"{options.rounds} requests; choose another model, or set max_unread={num_unread / len(prompts):.2g}"
        )
    return Answers(found, num_unread, cost_usd)


def by_text(prompts: Mapping[str, Prompt], number: int) -> list[list[str]]:
    """The keys of prompts that read the same: requests that go out together do not find each other in the ledger."""
    keys: dict[bytes, list[str]] = {}
    for key, prompt in prompts.items():
        digest = hashlib.blake2b(prompt(number).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        keys.setdefault(digest, []).append(key)
    return list(keys.values())


def _parts(prompts: Mapping[str, Prompt], number: int) -> Iterator[dict[str, str]]:
    """What is asked, by key, as many prompts at a time as may be in memory."""
    part: dict[str, str] = {}
    num_chars = 0
    for key, prompt in prompts.items():
        part[key] = prompt(number)
        num_chars += len(part[key])
        if num_chars >= PART_CHARS:
            yield part
            part, num_chars = {}, 0
    if part:
        yield part


def _replies(
    options: AskOptions,
    prompts: Mapping[str, str],
    ledger_uri: str,
    label: str,
    spent_usd: float,
    *,
    has_answered: bool,
) -> Iterator[dict[str, Any]]:
    spec = registry.spec(TeacherOptions(teacher="openai", openai=options.openai))
    columns = {name: [None] * len(prompts) for name in QUESTION_COLUMNS}
    columns |= {"question_id": list(prompts), "question": list(prompts.values())}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    answered = spec.services if has_answered else ()
    limiter = rate_limiter.start(spec.services, table.num_rows, options.max_usd, spent_usd, tuple(answered))
    with Progress(label, table.num_rows, "replies") as bar:
        with Watch(limiter, bar) as watch:
            # To the end: with an exception here the session would end, and with it what is under way and paid for.
            yield from stream(table, spec, ledger_uri, options.pool, limiter)
            numbers = watch.numbers()
        watch.end_if_told()
    if numbers.stopped is not None:
        raise UserError(
            f"{label}: stopped ({numbers.stopped}); what was finished is kept, run again to go on "
            "(with a higher max_usd, if that was the reason)"
        )


def _read(ledger_uri: str) -> Ledger:
    """The ledger as it is now."""
    ledger = Ledger(ledger_uri)
    ledger.refresh()
    return ledger
