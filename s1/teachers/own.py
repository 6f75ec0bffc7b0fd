"""A teacher of the user's: a class that `module:Class` names.

    class Socrates:
        name, trace_kind = "socrates", "raw"                 # the columns `teacher` and `trace_kind`
        service = Service(model="…", limits=…)               # optional: limits, retries, prices, the key's variable
        identity = {"prompt": 1}                             # optional, with a service a must: what shapes its answers

        async def trace(self, question: Question) -> TraceOutcome: ...

It is built on every worker, as `Socrates()`, with a service as `Socrates(key)`. What a teacher with an `identity`
answers is in the ledger before it is used, and is not asked for again until the identity changes.
"""

from __future__ import annotations

import inspect
import traceback
from typing import Any

from pydantic import SecretStr

from s1 import extensions
from s1.errors import UserError
from s1.teachers.protocol import Question, Status, Teacher, TraceOutcome
from s1.teachers.service import Service, api_key


def service(reference: str) -> Service | None:
    """The settings of a teacher that asks a paid service; None for every other one."""
    return getattr(_class(reference), "service", None)


def identity(reference: str) -> dict[str, Any] | None:
    """What shapes its answers beside the question; None when they cost nothing to repeat."""
    found = getattr(_class(reference), "identity", None)
    return None if found is None else {"teacher": reference, **found}


def check(reference: str) -> None:
    """Raise UserError when the class lacks something. Builds nothing and asks nobody."""
    found = _class(reference)
    if not inspect.iscoroutinefunction(getattr(found, "trace", None)):
        raise UserError(f"{reference!r} needs `async def trace(self, question)`, which returns a TraceOutcome")
    for name in ("name", "trace_kind"):
        if not hasattr(found, name):
            raise UserError(f"{reference!r} needs {name!r}: the column {'teacher' if name == 'name' else name}")
    settings: Any = getattr(found, "service", None)
    if not isinstance(getattr(found, "identity", None), dict | None):
        raise UserError(f"{reference!r}: identity must be a dict of what shapes an answer")
    if settings is None:
        return
    if not isinstance(settings, Service) or not settings.model:
        raise UserError(f"{reference!r}: service must be a Service of s1.teachers.service with its model")
    if identity(reference) is None:
        raise UserError(f"{reference!r} asks a service: give it `identity`, so that no answer is paid for twice")
    api_key(settings, f"{reference}: service")


class OwnTeacher:
    """Asks a teacher of the user's. What it raises ends the job, in one line that says where."""

    def __init__(self, reference: str, key: SecretStr | None = None) -> None:
        built = _class(reference)
        self._teacher: Teacher = built(key) if service(reference) is not None else built()
        self._reference = reference

    @property
    def name(self) -> str:
        """Value of the column `teacher`."""
        return self._teacher.name

    @property
    def trace_kind(self) -> str:
        """Value of the column `trace_kind`."""
        return self._teacher.trace_kind

    async def trace(self, question: Question) -> TraceOutcome:
        """The outcome that the user's class gives."""
        try:
            outcome: Any = await self._teacher.trace(question)
        except Exception as error:  # a fault in code that we do not know must not be repeated for every question
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}, question {question.question_id})"
            return TraceOutcome(Status.FATAL, detail=f"{self._reference} raised {' '.join(said.split())}")
        if not isinstance(outcome, TraceOutcome):
            kind = type(outcome).__name__
            return TraceOutcome(Status.FATAL, detail=f"{self._reference} gave a {kind}, must be a TraceOutcome")
        return outcome


def _class(reference: str) -> Any:
    found = extensions.load(reference)
    if not inspect.isclass(found):
        raise UserError(f"{reference!r} must be a class with `async def trace(self, question)`")
    return found
