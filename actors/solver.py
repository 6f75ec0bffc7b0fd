"""The solver on Ray Data: a model answers every question without further ado; what it solves is too easy to teach.

The model's plain chat template, no thinking asked for (paper, section 2.2); greedy, or several sampled attempts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from s1 import models, precision, vllm_environment
from s1.config import Config
from s1.template import Template
from s1.vllm_build import check_device, leave_threads_to_vllm
from s1.vllm_processes import EngineProcesses

_CPU_KV_CACHE_GIB = 1.0
_SHARED_GPU = 0.9  # of a GPU's memory that solvers which share it use together

# Options that change how solvers run, not what they answer. What decides how many attempts are decoded at a time, or on
# what, is none of them: the rounding differs, and a greedy answer may.
HOW = ("num_workers", "num_cpus")


class SolverOptions(Config):
    """Which models attempt the questions, and how they run."""

    models: tuple[str, ...] = Field(
        default=("embedded:smollm2-135m-instruct",),
        description="Solver models, one after the other; what any of them solves counts as solved. Empty: no solver.",
    )
    prompt: str = Field(
        default="{question}\nAnswer with the final result only.",
        description="The prompt; {question} is replaced by the question.",
    )
    attempts: PositiveInt = Field(default=1, description="Attempts by every model at every question.")
    temperature: NonNegativeFloat = Field(default=0.0, description="Sampling temperature; 0: greedy, one attempt.")
    seed: int = Field(default=0, description="Seed of sampled attempts.")
    max_tokens: PositiveInt = Field(default=24, description="Most tokens of an attempt.")
    max_model_len: PositiveInt = Field(
        default=1024, description="Most tokens of prompt and attempt together; longer prompts are skipped."
    )
    max_num_seqs: PositiveInt = Field(default=128, description="Most attempts to decode at the same time.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Type of weights and activations; auto: what a CPU computes fastest in, the model's own on GPUs "
        "that have it.",
    )
    kv_cache_gib: PositiveFloat | None = Field(
        default=None,
        description="Memory of the KV cache, on each GPU if there are several. By default 1 on CPUs; on GPUs by vLLM's "
        "own rule, for its share of the GPU.",
    )
    enforce_eager: bool | None = Field(
        default=None,
        description="Do not compile the model: starts faster, runs slower on GPUs. By default true on CPUs, false on "
        "GPUs.",
    )
    tensor_parallel_size: PositiveInt = Field(default=1, description="GPUs of one solver.")
    num_workers: PositiveInt = Field(default=1, description="Number of solvers that work in parallel.")
    num_cpus: float = Field(default=1.0, gt=0, description="CPUs that Ray sets aside for a solver.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs that Ray sets aside for a solver; 0: it runs on CPUs.")
    batch_rows: PositiveInt = Field(default=256, description="Questions given to a solver at a time.")

    @model_validator(mode="after")
    def _gpus_are_reserved(self) -> SolverOptions:
        shared = 0 < self.num_gpus < 1 and self.tensor_parallel_size == 1
        if not shared and self.num_gpus != (self.tensor_parallel_size if self.num_gpus else 0):
            raise ValueError(
                f"num_gpus={self.num_gpus:g} is not tensor_parallel_size={self.tensor_parallel_size}: a solver takes "
                "the GPUs that its model is split among, or a part of one; set both to the same number"
            )
        return self

    def check_device(self) -> None:
        """UserError when the vLLM that is installed here does not compute where the solver is to run."""
        device, other = ("gpu", 0) if self.num_gpus else ("cpu", self.tensor_parallel_size)
        check_device(device, f"solver.num_gpus={self.num_gpus:g}", f"solver.num_gpus={other}")

    @property
    def is_eager(self) -> bool:
        """Whether the model is not compiled."""
        return not self.num_gpus if self.enforce_eager is None else self.enforce_eager

    @property
    def kv_cache_bytes(self) -> int | None:
        """Memory of the KV cache; None: vLLM's own rule."""
        default = None if self.num_gpus else _CPU_KV_CACHE_GIB
        gib = default if self.kv_cache_gib is None else self.kv_cache_gib
        return None if gib is None else int(gib * 2**30)

    @property
    def gpu_memory_utilization(self) -> float | None:
        """Part of a GPU's memory that a solver may use; None: what vLLM takes of a GPU of its own.

        Solvers that share a GPU would each take that, and the second one would find no room.
        """
        return _SHARED_GPU * self.num_gpus if 0 < self.num_gpus < 1 else None

    def environment(self) -> dict[str, str]:
        """Environment of a solver's process: read by vLLM and OpenMP when they are loaded."""
        if self.num_gpus:
            return vllm_environment.on_gpus()
        # Ray would set the threads to the logical CPUs of the actor, which may be a fraction. One process for scheduler
        # and model: it is faster on few cores, and nothing is left behind when the actor is killed.
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        }


class Solver:
    """One model on a worker; takes and gives Arrow tables."""

    def __init__(self, model: str, options: SolverOptions) -> None:
        options.check_device()
        if options.num_gpus:
            leave_threads_to_vllm()
        from vllm import LLM, SamplingParams

        self.options = options
        arguments: dict[str, Any] = {
            "model": str(models.resolve(model)),
            "dtype": options.dtype if options.num_gpus else precision.resolve(options.dtype, gpu=False),
            "max_model_len": options.max_model_len,
            "max_num_seqs": options.max_num_seqs,
            "enforce_eager": options.is_eager,
            "kv_cache_memory_bytes": options.kv_cache_bytes,
            "tensor_parallel_size": options.tensor_parallel_size,
            "enable_prefix_caching": True,  # the system prompt is the same for all
            "generation_config": "vllm",
            "disable_log_stats": True,
        }
        if options.gpu_memory_utilization is not None:
            arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
        if not options.num_gpus:
            arguments["block_size"] = 32  # only whole blocks are shared, and vLLM's 128 tokens on CPUs are many prompts
        self._processes = EngineProcesses()
        with self._processes.starting():
            self._engine: Any = LLM(**arguments)
        # Only its way to tokenise is used, so the style does not matter.
        self._template = Template(self._engine.get_tokenizer(), "think-tags")
        self._sampling = SamplingParams(
            n=options.attempts,
            temperature=options.temperature,
            seed=options.seed,
            max_tokens=options.max_tokens,
            stop_token_ids=sorted(self._template.stop_ids),
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with a column `solver_attempt`, a row for every attempt; null where the prompt is too long."""
        prompts = [self._prompt(question) for question in batch["question"].to_pylist()]
        room = self.options.max_model_len - self.options.max_tokens
        fitting = [at for at, prompt in enumerate(prompts) if len(prompt) <= room]
        found: list[list[str | None]] = [[None] for _ in prompts]
        for at, texts in zip(fitting, self._generate([prompts[at] for at in fitting]), strict=True):
            found[at] = list(texts)
        rows = [at for at, texts in enumerate(found) for _ in texts]
        attempts = [text for texts in found for text in texts]
        return batch.take(pa.array(rows, pa.int64())).append_column("solver_attempt", pa.array(attempts, pa.string()))

    def _prompt(self, question: str) -> list[int]:
        """Ids of the chat prompt; nothing in a question becomes a control token."""
        mark = "\ue000question\ue001"
        conversation = [{"role": "user", "content": mark}]
        text: Any = self._template.tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
        before, _, after = text.partition(mark)
        asked = self.options.prompt.replace("{question}", question)
        return self._template.control(before) + self._template.plain(asked) + self._template.control(after)

    def _generate(self, prompts: Sequence[list[int]]) -> list[list[str]]:
        if not prompts:
            return []
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        with self._processes.working():
            outputs = self._engine.generate(requests, self._sampling, use_tqdm=False)
        return [[attempt.text.strip() for attempt in output.outputs] for output in outputs]
