"""vLLM behind the drivers' protocols: continue a prompt of token ids, free everything when the caller goes away."""

from __future__ import annotations

import logging
import math
import os
import random
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from s1 import precision, vllm_environment
from s1.config import Config
from s1.errors import UserError
from s1.forcing import Program, in_engine, segments
from s1.forcing.marks import Marks
from s1.forcing.segments import Step
from s1.precision import Dtype
from s1.template import Style, Template
from s1.vllm_build import check_device, leave_threads_to_vllm
from s1.vllm_processes import EngineProcesses

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

logger = logging.getLogger("ray.serve")

# Added to the logits of ids that the model's head has and the tokenizer does not: they cannot be fed back as text.
_NEVER = -math.inf
# A request waits for a place of its marks only when the engine has more to do than it can anyway.
_PLACES_PER_SEQUENCE = 4
_CPU_KV_CACHE_GIB = 0.5
_CPU_CONTEXT_TOKENS = 2048
_WHAT_FITS = -1  # vLLM's word for the model's own context, or as much of it as the memory holds
# Arguments of vLLM that would contradict what is reserved in Ray, or what is told of the engine.
_SET_BY_OPTION = frozenset(
    {"dtype", "enforce_eager", "gpu_memory_utilization", "max_model_len", "max_num_seqs", "tensor_parallel_size"}
)
_NOT_RESERVED = frozenset({"data_parallel_size", "pipeline_parallel_size"})
_LOGITS_PROCESSOR = "s1.forcing.logits_processor:BudgetForcing"
_LOGITS_PROCESSOR_V2 = "s1.forcing.logits_processor_v2:BudgetForcing"
_INTERFACE_V2 = "vllm.v1.worker.gpu.sample.logits_processor"  # of vLLM 0.31 and later
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}

Driver = Literal["segments", "in-engine"]


class EngineLost(RuntimeError):
    """The engine of this replica died; Serve starts another replica."""


class EngineOptions(Config):
    """How one replica of a model runs."""

    device: Literal["cpu", "gpu"] = Field("cpu", description="Where the model runs.")
    style: Style = Field("s1", description="Delimiters of the thinking: s1, or think-tags for models like Qwen3.")
    driver: Literal["auto", "segments", "in-engine"] = Field(
        "auto", description="How forcing is carried out: requests in segments, or a logits processor inside vLLM."
    )
    max_model_len: PositiveInt | None = Field(
        None,
        description="Most tokens of prompt and completion together. By default 2048 on CPUs; on GPUs the model's own, or "
        "what fits beside it.",
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
        description="Memory of the KV cache, on each GPU where there are several. By default 0.5 on CPUs; on GPUs what "
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


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


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


def check_mask(num_ids: int) -> None:
    """UserError when vLLM's V2 model runner cannot keep so many ids from being sampled: it would fail every request."""
    from vllm.v1.worker.gpu.sample.logit_bias import MAX_NUM_LOGIT_BIAS_TOKENS

    if num_ids > MAX_NUM_LOGIT_BIAS_TOKENS:
        raise UserError(
            f"the model has {num_ids} ids more than its tokenizer, and vLLM keeps at most {MAX_NUM_LOGIT_BIAS_TOKENS} "
            "from being sampled; set engine.driver=in-engine, which keeps all of them"
        )


class VllmEngine:
    """One vLLM engine in a process of its own, for the model in `folder`."""

    def __init__(
        self, folder: Path, options: EngineOptions, template: Template, measured_as: str | None = None
    ) -> None:
        """Load the model; takes seconds to minutes.

        `measured_as` is the model's name in vLLM's own metrics, which Ray exports; without it there are none.
        """
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        options.check_device()
        if options.device == "gpu":
            leave_threads_to_vllm()
        self.driver, self.why_driver = choose_driver(options, template, is_v2=uses_interface_v2(options))
        logger.info("driver of %s: %s (%s)", folder, self.driver, self.why_driver)
        arguments = _arguments(folder, options, self.driver)
        loggers: list[Any] = []
        if measured_as is not None:
            from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

            arguments["served_model_name"] = measured_as
            loggers = [RayPrometheusStatLogger]
        self._processes = EngineProcesses()
        with self._processes.starting():
            # vLLM sizes its batches by the use: what `vllm serve` is for is what this is for.
            use = UsageContext.OPENAI_API_SERVER
            config = AsyncEngineArgs(**arguments).create_engine_config(use)
            mask = range(template.num_tokens, config.model_config.get_vocab_size())
            self._bias = None if self.driver == "in-engine" else dict.fromkeys(mask, _NEVER) or None
            if self._bias is not None and config.use_v2_model_runner:
                check_mask(len(self._bias))
            self._llm = AsyncLLM.from_vllm_config(
                config, usage_context=use, stat_loggers=loggers, disable_log_stats=True
            )
        self.context_tokens: int = self._llm.model_config.max_model_len
        self.precision = str(self._llm.model_config.dtype).removeprefix("torch.")
        cache = self._llm.vllm_config.cache_config
        held = (cache.num_gpu_blocks or 0) * cache.block_size
        logger.info("KV cache of %s: %d tokens, a completion has at most %d", folder, held, self.context_tokens)
        self._marks = Marks(_PLACES_PER_SEQUENCE * options.max_num_seqs, self.context_tokens)

    def run(
        self,
        program: Program,
        prompt: Sequence[int],
        sampling: Sampling,
        choice: int = 0,
        driver: Driver | None = None,
        owner: str = "",
        as_whole: bool = False,
    ) -> AsyncGenerator[Step, None]:
        """One completion of `prompt` under `program`; `choice` counts the completions of one request.

        The prefix cache is shared by requests of one `owner` only: how fast an answer comes tells nobody else's prompt.
        An engine that was started for `in-engine` can run `segments` too. Who waits for the whole completion says so:
        tokens that nobody looks at then cost this process no time one by one.
        """
        if (driver or self.driver) == "in-engine":
            in_engine.check(program)
            return in_engine.run(program, prompt, self._single_pass(sampling, choice, owner, as_whole))
        as_whole = as_whole and not segments.needs_pieces(program)
        return segments.run(program, prompt, self._continuation(sampling, choice, owner, as_whole))

    def _continuation(self, sampling: Sampling, choice: int, owner: str, as_whole: bool) -> segments.Engine:
        async def generate(
            prompt: Sequence[int], *, max_tokens: int, stop_ids: frozenset[int], segment: int
        ) -> AsyncGenerator[Sequence[int], None]:
            # A number of its own for every segment: the same one would repeat the same random numbers.
            seed = _seed(sampling.seed, choice, segment)
            outputs = self.generate(
                prompt,
                sampling,
                seed=seed,
                max_tokens=max_tokens,
                stop_ids=stop_ids,
                owner=owner,
                as_whole=as_whole,
            )
            async with aclosing(outputs):
                async for output in outputs:
                    yield output.outputs[0].token_ids

        return generate

    def _single_pass(self, sampling: Sampling, choice: int, owner: str, as_whole: bool) -> in_engine.ForcingEngine:
        async def generate(prompt: Sequence[int], program: Program) -> AsyncGenerator[Iterable[tuple[int, bool]], None]:
            from s1.forcing.requests import extra_args

            seed, position = _seed(sampling.seed, choice, 0), 0
            async with self._marks.place() as place:
                outputs = self.generate(
                    prompt,
                    sampling,
                    seed=seed,
                    max_tokens=program.longest,
                    stop_ids=program.stop_ids,
                    owner=owner,
                    as_whole=as_whole,
                    extra_args=extra_args(program, place, random.getrandbits(31) if seed is None else seed),
                )
                async with aclosing(outputs):
                    async for output in outputs:
                        ids = output.outputs[0].token_ids
                        yield [(id, self._marks.marked(place, position + at)) for at, id in enumerate(ids)]
                        position += len(ids)

        return generate

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        seed: int | None,
        max_tokens: int,
        stop_ids: frozenset[int],
        owner: str = "",
        as_whole: bool = False,
        **more: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's outputs as they come, each with the ids that are new; `as_whole`: a single one at the end.

        `more` are further sampling parameters.
        """
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed,
            max_tokens=max_tokens,
            stop_token_ids=sorted(stop_ids),
            ignore_eos=True,  # what ends a completion is the template's knowledge
            logit_bias=self._bias,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY if as_whole else RequestOutputKind.DELTA,
            **more,
        )
        tokens = TokensPrompt(prompt_token_ids=list(prompt))
        if owner:
            tokens["cache_salt"] = owner
        request = self._llm.generate(tokens, params, uuid.uuid4().hex)
        last: RequestOutput | None = None
        try:
            async with aclosing(request):
                async for output in request:
                    if output.finished:
                        last = output  # given out when vLLM has let go of the request: who leaves then aborts nothing
                    else:
                        yield output
            if last is not None:
                yield last
        except EngineDeadError as error:
            raise EngineLost(str(error)) from error

    def check_alive(self) -> None:
        """Raises EngineLost when the engine is dead."""
        if self._llm.errored:
            raise EngineLost(str(self._llm.dead_error))

    @property
    def num_requests(self) -> int:
        """Requests that the engine is working on."""
        return self._llm.get_num_unfinished_requests()

    def close(self) -> None:
        self._processes.close()
        self._llm.shutdown()
        self._marks.close()


def _seed(seed: int | None, choice: int, segment: int) -> int | None:
    return None if seed is None else random.Random(f"{seed}/{choice}/{segment}").getrandbits(31)


def _arguments(folder: Path, options: EngineOptions, driver: Driver) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": options.number_type,
        "max_model_len": options.context_tokens or _WHAT_FITS,
        "max_num_seqs": options.max_num_seqs,
        "enforce_eager": options.is_eager,
        "kv_cache_memory_bytes": options.kv_cache_bytes,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "enable_prefix_caching": True,  # a segment continues where the one before it stopped
        "generation_config": "vllm",  # the request decides how to sample, not a file beside the weights
        "disable_log_stats": True,
        # vLLM's own is 0: the unseeded requests of every replica, and of every start, would draw the same numbers.
        "seed": random.SystemRandom().getrandbits(31),
    }
    if options.device == "cpu":
        # vLLM's 128 tokens on CPUs would leave the end of most prompts out of the prefix cache.
        arguments["block_size"] = 32
        # A seeded request whose prompt is computed in parts ends a CPU engine: its generators cannot be set back.
        arguments["enable_chunked_prefill"] = False
    if driver == "in-engine":
        processor = _LOGITS_PROCESSOR_V2 if uses_interface_v2(options) else _LOGITS_PROCESSOR
        arguments["logits_processors"] = [processor]
    return arguments | options.engine_kwargs
