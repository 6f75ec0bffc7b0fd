"""vLLM behind the driver's protocol: continue a prompt of token ids, free everything when the caller goes away."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from s1.config import Config
from s1.forcing.segments import Engine
from s1.template import Style

# Added to the logits of ids that the model's head has and the tokenizer does not: they cannot be fed back as text.
_NEVER = -100.0


class EngineOptions(Config):
    """How one replica of a model runs."""

    device: Literal["cpu", "gpu"] = Field("cpu", description="Where the model runs.")
    style: Style = Field("s1", description="Delimiters of the thinking: s1, or think-tags for models like Qwen3.")
    max_model_len: PositiveInt = Field(2048, description="Tokens of prompt and completion together.")
    max_num_seqs: PositiveInt = Field(64, description="Completions that are decoded at the same time.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="Type of weights and activations.")
    enforce_eager: bool = Field(True, description="Do not compile the model: starts faster, runs slower on GPUs.")
    kv_cache_gib: PositiveFloat | None = Field(
        0.5, description="Memory of the KV cache; without it vLLM takes gpu_memory_utilization of the device."
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Part of the device's memory that vLLM may use.")
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs of one replica.")
    threads: PositiveInt | None = Field(None, description="Threads of a CPU replica; by default one for each core.")
    engine_kwargs: dict[str, Any] = Field(
        default_factory=lambda: {}, description="Further arguments of vLLM's engine, by vLLM's own names."
    )

    def environment(self) -> dict[str, str]:
        """Environment of a replica's process: read by vLLM and OpenMP when they are loaded."""
        quiet = {name: os.environ.get(name, value) for name, value in _QUIET.items()}
        if self.device == "gpu":
            return quiet
        threads = self.threads or os.cpu_count() or 1
        # One process for scheduler and model halves vLLM's cost per step on a small CPU. Ray would set the threads to
        # the logical CPUs of the actor, which may be a fraction.
        return quiet | {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
        }


_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


class VllmEngine:
    """One vLLM engine in a process of its own."""

    def __init__(self, folder: Path, options: EngineOptions) -> None:
        """Load the model in `folder`; takes seconds to minutes. Needs a running event loop."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = _arguments(folder, options)
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self.context_tokens: int = self._llm.model_config.max_model_len
        self.vocabulary: int = self._llm.model_config.get_vocab_size()

    def continuation(self, sampling: Sampling, *, choice: int = 0, num_tokens: int | None = None) -> Engine:
        """What the segments driver calls. Ids from `num_tokens` on are never sampled."""
        mask = range(self.vocabulary if num_tokens is None else num_tokens, self.vocabulary)
        bias = dict.fromkeys(mask, _NEVER)

        async def generate(
            prompt: Sequence[int], *, max_tokens: int, stop_ids: frozenset[int], segment: int
        ) -> AsyncGenerator[Sequence[int], None]:
            from vllm.sampling_params import RequestOutputKind, SamplingParams

            params = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                seed=_seed(sampling.seed, choice, segment),
                max_tokens=max_tokens,
                stop_token_ids=sorted(stop_ids),
                ignore_eos=True,  # what ends a completion is the template's knowledge
                logit_bias=bias or None,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            request = self._llm.generate({"prompt_token_ids": list(prompt)}, params, uuid.uuid4().hex)
            async with aclosing(request) as outputs:
                async for output in outputs:
                    yield output.outputs[0].token_ids

        return generate

    async def check_health(self) -> None:
        """Raises when the engine is dead."""
        await self._llm.check_health()

    @property
    def num_requests(self) -> int:
        """Requests that the engine is working on."""
        return self._llm.get_num_unfinished_requests()

    def close(self) -> None:
        self._llm.shutdown()


def _seed(seed: int | None, choice: int, segment: int) -> int | None:
    """A number of its own for every segment: the same one would repeat the same random numbers."""
    return None if seed is None else random.Random(f"{seed}/{choice}/{segment}").getrandbits(31)


def _arguments(folder: Path, options: EngineOptions) -> Mapping[str, Any]:
    memory = None if options.kv_cache_gib is None else int(options.kv_cache_gib * 2**30)
    return {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "enforce_eager": options.enforce_eager,
        "kv_cache_memory_bytes": memory,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "enable_prefix_caching": True,  # a segment continues where the one before it stopped
        "generation_config": "vllm",  # the request decides how to sample, not a file beside the weights
        "disable_log_stats": True,
        **options.engine_kwargs,
    }
