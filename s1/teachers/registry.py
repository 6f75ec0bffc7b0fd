"""Teachers by name: what a job knows about one before it is built, and how a worker builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SecretStr

from s1.config import Config
from s1.teachers import openai as endpoints
from s1.teachers import recorded as records
from s1.teachers import vllm as engines
from s1.teachers.protocol import Teacher
from s1.teachers.worked import Worked, WorkedTeacher

TeacherName = Literal["recorded", "worked", "vllm", "openai"]


class TeacherOptions(Config):
    """Which teacher, and the settings of every one of them."""

    teacher: TeacherName = Field(default="worked", description="Who writes the traces.")
    then: TeacherName | None = Field(default=None, description="Who is asked for what the first one declines.")
    recorded: records.Recorded = Field(default=records.Recorded(), description="Traces that exist already.")
    worked: Worked = Field(default=Worked(), description="Steps that are correct by construction.")
    vllm: engines.Vllm = Field(default=engines.Vllm(), description="A local model.")
    openai: endpoints.OpenAI = Field(default=endpoints.OpenAI(), description="Any OpenAI-compatible endpoint.")


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher that is not built yet; travels to the workers."""

    options: TeacherOptions
    key: SecretStr | None = None

    @property
    def names(self) -> tuple[TeacherName, ...]:
        """Whom to ask, in order: the next one for what the one before declines."""
        return chosen(self.options)

    def identity(self, name: TeacherName) -> dict[str, Any] | None:
        """What shapes a paid answer beside the question; None for a teacher whose work costs nothing to repeat."""
        if name == "openai":
            return self.options.openai.identity()
        return self.options.vllm.identity() if name == "vllm" else None

    @property
    def is_paid(self) -> bool:
        """Whether anything of this belongs into a ledger."""
        return any(self.identity(name) is not None for name in self.names)

    def build(self, name: TeacherName) -> Teacher:
        """One of the teachers, on the worker that uses it."""
        options = self.options
        if name == "openai":
            return endpoints.OpenAITeacher(options.openai, self.key)
        if name == "vllm":
            return engines.VllmTeacher(options.vllm)
        if name == "recorded":
            return records.RecordedTeacher(options.recorded)
        return WorkedTeacher(options.worked)


def chosen(options: TeacherOptions) -> tuple[TeacherName, ...]:
    """The teachers that `options` ask for, in order."""
    return (options.teacher,) if options.then in (None, options.teacher) else (options.teacher, options.then)


def check(options: TeacherOptions) -> None:
    """Raise UserError when a chosen teacher lacks something. Starts nothing and asks nobody."""
    checks = {"recorded": records.check, "vllm": engines.check, "openai": endpoints.check}
    for name in chosen(options):
        if name in checks:
            checks[name](getattr(options, name))


def spec(options: TeacherOptions) -> TeacherSpec:
    """The chosen teachers, with their key from this process's environment."""
    key = endpoints.api_key(options.openai) if "openai" in chosen(options) else None
    return TeacherSpec(TeacherOptions.model_validate(options.model_dump(include=set(TeacherOptions.model_fields))), key)
