"""Teachers by name: what a job knows about one before it is built, and how a worker builds it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, SecretStr

from s1 import extensions
from s1.config import Config
from s1.teachers import gemini as google
from s1.teachers import openai as endpoints
from s1.teachers import own
from s1.teachers import recorded as records
from s1.teachers import service as services
from s1.teachers import vllm as engines
from s1.teachers.protocol import Teacher
from s1.teachers.service import Service
from s1.teachers.worked import Worked, WorkedTeacher

TEACHERS = ("recorded", "worked", "vllm", "openai", "gemini")
TeacherName = Annotated[str, extensions.one_of("teachers", TEACHERS)]


class TeacherOptions(Config):
    """Which teacher, and the settings of every one of them."""

    teacher: TeacherName = Field(
        default="worked", description=f"Who writes the traces: {', '.join(TEACHERS)}, or module:Class of your own."
    )
    then: TeacherName | None = Field(default=None, description="Second teacher, for what the first one declines.")
    recorded: records.Recorded = Field(default=records.Recorded(), description="Traces that exist already.")
    worked: Worked = Field(default=Worked(), description="Steps that are correct by construction.")
    vllm: engines.Vllm = Field(default=engines.Vllm(), description="A local model.")
    openai: endpoints.OpenAI = Field(default=endpoints.OpenAI(), description="Any OpenAI-compatible endpoint.")
    gemini: google.Gemini = Field(default=google.Gemini(), description="Google's Gemini; thoughts are summaries.")


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher that is not built yet; travels to the workers."""

    options: TeacherOptions
    keys: dict[str, SecretStr | None] = field(default_factory=dict[str, "SecretStr | None"])

    @property
    def names(self) -> tuple[TeacherName, ...]:
        """Whom to ask, in order: the next one for what the one before hands on."""
        return chosen(self.options)

    def service(self, name: TeacherName) -> Service | None:
        """The settings of a teacher that asks a paid service; None for every other one."""
        return service(self.options, name)

    @property
    def services(self) -> dict[str, Service]:
        """The paid services among the teachers, by the teacher's name."""
        found = {name: self.service(name) for name in self.names}
        return {name: settings for name, settings in found.items() if settings is not None}

    def identity(self, name: TeacherName) -> dict[str, Any] | None:
        """What shapes a paid answer beside the question; None for a teacher whose work costs nothing to repeat."""
        if extensions.is_reference(name):
            return own.identity(name)
        if name == "openai":
            return self.options.openai.identity()
        if name == "gemini":
            return self.options.gemini.identity()
        return self.options.vllm.identity() if name == "vllm" else None

    @property
    def is_paid(self) -> bool:
        """Whether anything of this belongs into a ledger."""
        return any(self.identity(name) is not None for name in self.names)

    @property
    def num_gpus(self) -> int:
        """GPUs that a worker needs: what a local model is shared among, unless there is a CPU build of vLLM."""
        return self.options.vllm.num_gpus if "vllm" in self.names else 0

    def build(self, name: TeacherName) -> Teacher:
        """One of the teachers, on the worker that uses it."""
        options = self.options
        if extensions.is_reference(name):
            return own.OwnTeacher(name, self.keys.get(name))
        if name == "openai":
            return endpoints.OpenAITeacher(options.openai, self.keys.get(name))
        if name == "gemini":
            return google.GeminiTeacher(options.gemini, self.keys.get(name))
        if name == "vllm":
            return engines.VllmTeacher(options.vllm)
        if name == "recorded":
            return records.RecordedTeacher(options.recorded)
        return WorkedTeacher(options.worked)


def chosen(options: TeacherOptions) -> tuple[TeacherName, ...]:
    """The teachers that `options` ask for, in order."""
    return (options.teacher,) if options.then in (None, options.teacher) else (options.teacher, options.then)


def service(options: TeacherOptions, name: TeacherName) -> Service | None:
    """The settings of a teacher that asks a paid service; None for every other one."""
    if extensions.is_reference(name):
        return own.service(name)
    return {"openai": options.openai, "gemini": options.gemini}.get(name)


def check(options: TeacherOptions) -> None:
    """Raise UserError when a chosen teacher lacks something. Starts nothing and asks nobody."""
    for name in chosen(options):
        if extensions.is_reference(name):
            own.check(name)
            continue
        settings = service(options, name)
        if settings is not None:
            services.check(settings, name)
        elif name == "recorded":
            records.check(options.recorded)
        elif name == "vllm":
            engines.check(options.vllm)


def check_reached(options: TeacherOptions, answered: Collection[str]) -> None:
    """Raise UserError when no connection to a service that will be asked comes about.

    The second one may have nothing left to say when it has `answered` in earlier runs.
    """
    for number, name in enumerate(chosen(options)):
        settings = service(options, name)
        if settings is not None and not (number and name in answered):
            services.check_reached(settings, name)


def spec(options: TeacherOptions) -> TeacherSpec:
    """The chosen teachers, with their keys from this process's environment."""
    settings = {name: service(options, name) for name in chosen(options)}
    keys = {name: services.api_key(found, name) for name, found in settings.items() if found is not None}
    return TeacherSpec(
        TeacherOptions.model_validate(options.model_dump(include=set(TeacherOptions.model_fields))), keys
    )
