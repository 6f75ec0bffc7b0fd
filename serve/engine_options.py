"""How one replica of a model runs, and which driver carries out the forcing on it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from s1 import precision, vllm_environment
from s1.config import Config
from s1.precision import Dtype
from s1.template import Style, Template
from s1.vllm_build import check_device

_CPU_KV_CACHE_GIB = 0.5
_CPU_CONTEXT_TOKENS = 2048
# Arguments of vLLM that would contradict what is reserved in Ray, or what is told of the engine.
_SET_BY_OPTION = frozenset(
    {"dtype", "enforce_eager", "gpu_memory_utilization", "max_model_len", "max_num_seqs", "tensor_parallel_size"}
)
_NOT_RESERVED = frozenset({"data_parallel_size", "pipeline_parallel_size"})
_INTERFACE_V2 = "vllm.v1.worker.gpu.sample.logits_processor"  # of vLLM 0.31 and later
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}

Driver = Literal["segments", "in-engine"]


class EngineOptions(Config):
    """How one replica of a model runs."""

    device: Literal["cpu", "gpu"] = Field("cpu", description="Where the model runs.")
    style: Style = Field("s1", description="Delimiters of the thinking: s1, or think-tags for models like Qwen3.")
    driver: Literal["auto", "segments", "in-engine"] = Field(
        "auto", description="How forcing is carried out: requests in segments, or a logits processor inside vLLM."
    )
    max_model_len: PositiveInt | None = Field(
        None,
        description="Most tokens of prompt and completion together. By default 2048 on CPUs; on GPUs the model's own, "
        "or what fits beside it.",
    )
    max_num_seqs: PositiveInt = Field(64, description="Most completions to decode at the same time.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Type of weights and activations; auto: what a CPU computes fastest in, the model's own on GPUs "
        "that have it.",
    )
    enforce_eager: bool | None = Field(
        None,
        description="Do not compile the model: starts faster, runs slower on GPUs. By default true on CPUs; false on "
        "GPUs, where the model is compiled and uses CUDA graphs.",
    )
    kv_cache_gib: PositiveFloat | None = Field(
        None,
        description="Memory of the KV cache, on each GPU if there are several. By default 0.5 on CPUs; on GPUs what "
        "gpu_memory_utilization leaves beside the model.",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of the device's memory that vLLM may use."
    )
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs of one replica.")
    threads: PositiveInt | None = Field(None, description="Threads of a CPU replica; by default one for each core.")
    engine_kwargs: dict[str, Any] = Field(
        default_factory=lambda: {}, description="Further arguments of vLLM's engine, by vLLM's own names."
    )

    def check_device(self, name: str = "engine") -> None:
        """UserError when the vLLM that is installed here does not compute on `device`."""
        other = "cpu" if self.device == "gpu" else "gpu"
        check_device(self.device, f"{name}.device={self.device}", f"{name}.device={other}")

    @property
    def number_type(self) -> Dtype | Literal["auto"]:
        """Type of weights and activations on this machine; auto: known to the engine alone, by its GPU."""
        return self.dtype if self.device == "gpu" else precision.resolve(self.dtype, gpu=False)

    @property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and completion together; None: known to the engine alone."""
        default = _CPU_CONTEXT_TOKENS if self.device == "cpu" else None
        return default if self.max_model_len is None else self.max_model_len

    @field_validator("engine_kwargs")
    @classmethod
    def _check_engine_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name in kwargs:
            if name in _SET_BY_OPTION:
                raise ValueError(f"{name} is an option of its own; set engine.{name}")
            if name in _NOT_RESERVED:
                raise ValueError(f"{name} would take GPUs that nothing has reserved; set engine.tensor_parallel_size")
            if name == "speculative_config":
                raise ValueError(
                    "speculative_config: vLLM's speculative decoding takes no logit bias, which requests here have; "
                    "leave it out"
                )
        return kwargs

    @property
    def is_eager(self) -> bool:
        """Whether the model is not compiled."""
        return self.device == "cpu" if self.enforce_eager is None else self.enforce_eager

    @property
    def kv_cache_bytes(self) -> int | None:
        """Memory of the KV cache; None: what gpu_memory_utilization leaves."""
        default = _CPU_KV_CACHE_GIB if self.device == "cpu" else None
        gib = default if self.kv_cache_gib is None else self.kv_cache_gib
        return None if gib is None else int(gib * 2**30)

    def environment(self) -> dict[str, str]:
        """Environment of a replica's process: read by vLLM and OpenMP when they are loaded."""
        quiet = {name: os.environ.get(name, value) for name, value in _QUIET.items()}
        if self.device == "gpu":
            return quiet | vllm_environment.on_gpus()
        threads = self.threads or os.cpu_count() or 1
        return quiet | {
            # One process for scheduler and model halves vLLM's cost per step on a small CPU.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # Ray would set the threads to the logical CPUs of the actor, which may be a fraction.
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Threads that wait by spinning take the cores from other replicas and from the HTTP side.
            "OMP_WAIT_POLICY": "PASSIVE",
        }


def choose_driver(options: EngineOptions, template: Template, *, is_v2: bool) -> tuple[Driver, str]:
    """The driver for a model, and why. `is_v2`: see `uses_interface_v2`."""
    if options.driver != "auto":
        return options.driver, "asked for"
    if len(template.thinking_end) != 1:
        return (
            "segments",
            f"the delimiter has {len(template.thinking_end)} tokens, and a processor cannot take them back",
        )
    if options.device == "gpu" and not is_v2:
        return "segments", "for a logits processor vLLM before 0.31 goes back to its V1 model runner"
    if options.device == "gpu":
        return (
            "segments",
            "the processor for vLLM's V2 model runner has not been run on GPUs; in-engine takes it",
        )
    return "in-engine", "one pass in vLLM's V1 model runner instead of one request for every segment"


def uses_interface_v2(options: EngineOptions) -> bool:
    """Whether logits processors run in vLLM's V2 model runner: on GPUs, where this vLLM lets them in."""
    return options.device == "gpu" and find_spec(_INTERFACE_V2) is not None
