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
    def identity(self) -> dict[str, Any] | None:
        """What shapes a paid answer beside the question; None for a teacher whose work costs nothing to repeat."""
        chosen = self.options.teacher
        return getattr(self.options, chosen).identity() if chosen in ("vllm", "openai") else None

    @property
    def label(self) -> tuple[str, str]:
        """Columns teacher and trace_kind of a paid teacher, without building it."""
        chosen = self.options.teacher
        return getattr(self.options, chosen).model, "raw"

    def build(self) -> Teacher:
        """The teacher, on the worker that uses it."""
        options = self.options
        if options.teacher == "openai":
            return endpoints.OpenAITeacher(options.openai, self.key)
        if options.teacher == "vllm":
            return engines.VllmTeacher(options.vllm)
        if options.teacher == "recorded":
            return records.RecordedTeacher(options.recorded)
        return WorkedTeacher(options.worked)


def check(options: TeacherOptions) -> None:
    """Raise UserError when the chosen teacher lacks something. Starts nothing and asks nobody."""
    checks = {"recorded": records.check, "vllm": engines.check, "openai": endpoints.check}
    if options.teacher in checks:
        checks[options.teacher](getattr(options, options.teacher))


def spec(options: TeacherOptions) -> TeacherSpec:
    """The chosen teacher, with its key from this process's environment."""
    key = endpoints.api_key(options.openai) if options.teacher == "openai" else None
    return TeacherSpec(TeacherOptions.model_validate(options.model_dump(include=set(TeacherOptions.model_fields))), key)
