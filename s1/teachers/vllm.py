"""A local model as teacher: one vLLM engine on the worker, continuous batching over all questions under way.

Prompts and completions go through the template, so that a model with `<think>` tags and one that this project trained
are asked and read in the way that they were trained.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, field_validator

from s1 import models, precision, vllm_environment
from s1.config import Config
from s1.errors import UserError
from s1.teachers.protocol import REFUSED, Question, Status, TraceOutcome, classified
from s1.template import Style, Template
from s1.vllm_build import installed_device, leave_threads_to_vllm
from s1.vllm_processes import EngineProcesses

_DETAIL_CHARS = 300
PROMPT_VERSION = "1"  # part of every ledger key: raise it when questions are asked in another way


class Vllm(Config):
    """Which model to run, and how it samples."""

    model: str = Field(default="", description="Model reference: embedded:NAME, a folder, or a hub id.")
    style: Style = Field(default="think-tags", description="How the model marks its thinking.")
    system: str | None = Field(default=None, description="System prompt; by default the chat template's own.")
    max_tokens: int = Field(default=32768, ge=1, description="Limit of one response, thinking included.")
    temperature: float = Field(default=0.6, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(default=0.95, gt=0, le=1, description="Nucleus sampling.")
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs of one machine that share the model.")
    engine: dict[str, Any] = Field(default={}, description="Further arguments of the vLLM engine.")

    @field_validator("engine")
    @classmethod
    def _gpus_are_reserved(cls, engine: dict[str, Any]) -> dict[str, Any]:
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if name in engine:
                raise ValueError(f"{name} would take GPUs that nothing has reserved; set vllm.tensor_parallel_size")
        return engine

    @property
    def num_gpus(self) -> int:
        """GPUs of a worker; none where vLLM's build for CPUs is installed."""
        return 0 if installed_device() == "cpu" else self.tensor_parallel_size

    def identity(self) -> dict[str, Any]:
        """What shapes an answer, for the ledger; how the engine is run does not."""
        values = self.model_dump(mode="json", exclude={"engine", "tensor_parallel_size"})
        return {"teacher": "vllm", "prompt": PROMPT_VERSION, **values}


def check(settings: Vllm) -> None:
    """Raise UserError when there can be no such model. Loads nothing."""
    if not settings.model:
        raise UserError("teacher vllm needs --vllm.model: a folder, a hub id or embedded:NAME")
    models.check(settings.model)


class VllmTeacher:
    """Runs the model. The engine starts with the first question, on the event loop that asks it."""

    trace_kind = "raw"

    def __init__(self, settings: Vllm) -> None:
        _set_environment(settings)
        from transformers import AutoTokenizer

        self.settings = settings
        self.name = settings.model
        self._folder = str(models.resolve(settings.model))
        try:
            self._template = Template(AutoTokenizer.from_pretrained(self._folder), settings.style)
        except Exception as error:  # whatever a folder makes of the library
            raise UserError(f"vllm.model={settings.model!r}: its tokenizer does not load ({_said(error)})") from error
        self._processes = EngineProcesses()
        self._engine: Any = None
        self._failure: TraceOutcome | None = None

    async def trace(self, question: Question) -> TraceOutcome:
        """The model's trace; with the same seed for the same question."""
        if self._engine is None and self._failure is None:
            self._start()
        if self._failure is not None:
            return self._failure
        return await self._answer(question)

    async def _answer(self, question: Question) -> TraceOutcome:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineGenerateError

        prompt = self._template.render_prompt(question.question, self.settings.system)
        sampling = SamplingParams(
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=int(question.question_id[:8], 16) % 2**31,
            stop_token_ids=sorted(self._template.stop_ids),
            skip_special_tokens=False,
        )
        last: Any = None
        try:
            async for output in self._engine.generate({"prompt_token_ids": prompt}, sampling, question.question_id):
                last = output
        except (ValueError, VLLMClientError) as error:  # the prompt does not fit the model's context
            return TraceOutcome(Status.DECLINED, detail=" ".join(str(error).split()), finish_reason=REFUSED)
        except EngineGenerateError as error:  # this request alone
            return TraceOutcome(Status.TRANSIENT, detail=_said(error.__cause__ or error))
        except Exception as error:  # the engine's process has died
            return self._fail("broke down", error)
        completion = last.outputs[0]
        parsed = self._template.parse(list(completion.token_ids))
        thinking = parsed.thinking if parsed.thinking_ended else ""
        return classified(
            thinking,
            parsed.attempt,
            completion.finish_reason,
            input_tokens=len(prompt),
            output_tokens=len(completion.token_ids),
        )

    def _fail(self, what: str, error: Exception) -> TraceOutcome:
        """No other question would fare better: an engine is not started twice."""
        detail = f"the vLLM engine of {self.settings.model!r} {what} ({_said(error)}); see vllm.engine"
        self._failure = self._failure or TraceOutcome(Status.FATAL, detail=detail)
        return self._failure

    def _start(self) -> None:
        try:
            from vllm import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM

            arguments: dict[str, Any] = {
                "tensor_parallel_size": self.settings.tensor_parallel_size,
                "dtype": "auto" if self.settings.num_gpus else precision.resolve("auto", gpu=False),
                **self.settings.engine,
            }
            with self._processes.starting():
                # vLLM sizes its batches by the use: this one is asked question by question, like a server.
                self._engine = AsyncLLM.from_engine_args(
                    AsyncEngineArgs(model=self._folder, **arguments), usage_context=UsageContext.OPENAI_API_SERVER
                )
        except Exception as error:  # of the engine's own process, of CUDA, of settings that it does not know
            self._fail("does not start", error)


def _said(error: BaseException) -> str:
    """In one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_DETAIL_CHARS]


def _set_environment(settings: Vllm) -> None:
    """What vLLM reads when it is imported; what the user has set stands."""
    if settings.num_gpus:
        os.environ.update(vllm_environment.on_gpus())
        leave_threads_to_vllm()
        return
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    # Ray sets this to the CPUs that it was told the worker needs, which slows a CPU engine down.
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
