"""vLLM behind the drivers' protocols: continue a prompt of token ids, free everything when the caller goes away."""

from __future__ import annotations

import logging
import math
import random
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.errors import UserError
from s1.forcing import Program, in_engine, segments
from s1.forcing.marks import Marks
from s1.forcing.segments import Step
from s1.template import Template
from s1.vllm_build import leave_threads_to_vllm
from s1.vllm_processes import EngineProcesses
from serve.engine_options import Driver, EngineOptions, choose_driver, uses_interface_v2

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

logger = logging.getLogger("ray.serve")

# Added to the logits of ids that the model's head has and the tokenizer does not: they cannot be fed back as text.
_NEVER = -math.inf
# A request waits for a place of its marks only when the engine has more to do than it can anyway.
_PLACES_PER_SEQUENCE = 4
_WHAT_FITS = -1  # vLLM's word for the model's own context, or as much of it as the memory holds
_LOGITS_PROCESSOR = "s1.forcing.logits_processor:BudgetForcing"
_LOGITS_PROCESSOR_V2 = "s1.forcing.logits_processor_v2:BudgetForcing"


class EngineLost(RuntimeError):
    """The engine of this replica died; Serve starts another replica."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


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
