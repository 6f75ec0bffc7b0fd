"""Models on Ray Data, without HTTP: the methods run inside the actors, next to their engine.

The prompt, the policy and the driver are those of the served model, so that under greedy decoding the answers are, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import time
from collections.abc import Generator, Sequence
from typing import Any

import pyarrow as pa

from jobs.evaluation_options import ServeOptions
from s1.errors import UserError
from s1.evaluation.engine import Answer, Request, Segment, overflowed
from s1.evaluation.methods import Response, respond
from s1.evaluation.tasks import Task
from s1.forcing import BudgetPolicy, compile_policy
from s1.forcing.machine import ended_by, finish_reason
from s1.forcing.transcript import Transcript
from s1.vllm_processes import MAX_RESTARTS
from serve.engine import EngineLost
from serve.engine_options import EngineOptions

logger = logging.getLogger(__name__)

# Keys of a request's `budget_forcing` and what a policy calls them.
_POLICY = {"max_tokens": "max_thinking_tokens", "min_tokens": "min_thinking_tokens"}


class OfflineEngine:
    """One model in an actor of Ray Data; an `s1.evaluation.engine.Engine`."""

    def __init__(self, model: str, options: EngineOptions) -> None:
        self._model, self._options = model, options
        self._loading = asyncio.Lock()
        self._parts: Any = None

    async def _loaded(self) -> Any:
        """Template and engine; the engine has to be made inside the loop that it works in."""
        from transformers import AutoTokenizer

        from s1 import models
        from s1.template import Template
        from serve.engine import VllmEngine

        async with self._loading:
            if self._parts is None:
                folder = models.resolve(self._model)
                template = Template(AutoTokenizer.from_pretrained(folder), self._options.style)
                self._parts = template, VllmEngine(folder, self._options, template)
        return self._parts

    async def answer(self, request: Request) -> Answer:
        """One completion under the policy of `request`."""
        from serve.engine import Sampling

        template, engine = await self._loaded()
        started = time.monotonic()
        message = {"role": "user", "content": request.question}
        prompt = template.render_messages([message], enable_thinking=request.enable_thinking)
        asked = {_POLICY.get(name, name): value for name, value in request.budget_forcing.items()}
        try:
            program = compile_policy(
                BudgetPolicy(**asked, enable_thinking=request.enable_thinking),
                template,
                prompt_tokens=len(prompt) + len(thought := template.plain(request.thinking)),
                context_tokens=engine.context_tokens,
                max_tokens=request.max_tokens,
            )
        except UserError:
            return overflowed(time.monotonic() - started)
        transcript = Transcript(template)
        sampling = Sampling(temperature=request.temperature, seed=request.seed)
        state: Any = None
        async for step in engine.run(program, [*prompt, *thought], sampling, as_whole=True):
            transcript.add(step.tokens)
            state = step.state
        transcript.finish()
        return Answer(
            thinking=transcript.reasoning,
            content=transcript.content,
            thinking_tokens=state.thinking_tokens,
            forced_tokens=state.forced_tokens,
            answer_tokens=state.answer_tokens,
            ended_by=ended_by(program, state) or ("length" if finish_reason(state) == "length" else None),
            segments=_joined(transcript),
            latency_s=round(time.monotonic() - started, 4),
            prompt_tokens=len(prompt),
            completion_tokens=state.position,
        )

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Pickled tasks, column `task` -> as many pickled (key of the task, response), column `response`."""
        tasks: list[Task] = [pickle.loads(task) for task in batch["task"].to_pylist()]
        try:
            found = await asyncio.gather(*(respond(self.answer, task.request, task.setting.plan) for task in tasks))
        except EngineLost:
            # Ray Data starts a lost actor again and repeats what it was doing; an exception would end the job.
            logger.exception("the engine has died, and its actor ends")
            os._exit(1)
        pairs = [pickle.dumps((task.key, response)) for task, response in zip(tasks, found, strict=True)]
        return pa.table({"response": pa.array(pairs, pa.binary())})


def _joined(transcript: Transcript) -> tuple[Segment, ...]:
    """Pieces of the completion; neighbours of one kind are one."""
    joined: list[Segment] = []
    for span in transcript.spans:
        if joined and joined[-1].forced == span.forced:
            joined.append(Segment(joined.pop().text + span.text, span.forced))
        else:
            joined.append(Segment(span.text, span.forced))
    return tuple(joined)


def responses(
    model: str, tasks: Sequence[Task], options: ServeOptions, at_once: int
) -> Generator[tuple[Task, Response]]:
    """The responses of one model to `tasks` as they come, over `options.num_replicas` actors. Needs an open Ray.

    `at_once`: tasks under way in one actor, in two halves: while the last ones of the one are waited for, the other
    keeps the engine busy.
    """
    import ray

    by_key = {task.key: task for task in tasks}
    engine = options.engine
    half = max(1, at_once // 2)
    pickled = [{"task": pickle.dumps(task)} for task in tasks]
    done = ray.data.from_items(pickled, override_num_blocks=-(-len(tasks) // half)).map_batches(
        OfflineEngine,
        fn_constructor_args=(model, engine),
        batch_size=None,  # a block as a whole
        batch_format="pyarrow",
        num_cpus=options.num_cpus,
        num_gpus=engine.tensor_parallel_size if engine.device == "gpu" else 0,
        compute=ray.data.ActorPoolStrategy(
            size=options.num_replicas, max_tasks_in_flight_per_actor=2, max_concurrent_calls_per_actor=2
        ),
        max_restarts=MAX_RESTARTS,
        runtime_env={"env_vars": engine.environment()},
    )
    for row in done.iter_rows():
        key, response = pickle.loads(row["response"])
        yield by_key[key], response
