"""The forced engine: one model on one replica, every request driven through the budget machine from start to end.

A request stays on the replica that took it, so each segment finds the ones before it in the prefix cache.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from s1.errors import UserError
from s1.forcing import Program, compile_policy
from s1.forcing.machine import State, ended_by, finish_reason, start, unmet
from s1.forcing.transcript import Delta, Span, Transcript
from s1.template import Template
from serve.engine import EngineLost, Sampling, VllmEngine
from serve.engine_options import EngineOptions
from serve.events import (
    Accepted,
    Added,
    Choice,
    Completed,
    EngineFacts,
    Event,
    Finished,
    Generation,
    Rejected,
    Report,
    Segment,
)
from serve.pace import interval_s, paced
from serve.rendering import Renderer
from serve.stops import StopStrings

Item = TypeVar("Item")

_WATCH_S = 1.0  # between two looks at the engine

logger = logging.getLogger("ray.serve")


class ForcedEngine:
    """What a replica runs: the model that clients know as `name`. `model` is a reference of `s1.models`.

    Needs a running event loop. The process ends when its engine has died.
    """

    def __init__(self, name: str, model: str, options: EngineOptions) -> None:
        from transformers import AutoTokenizer

        from s1 import models

        folder = models.resolve(model)
        self.template = Template(AutoTokenizer.from_pretrained(folder), options.style)
        self.engine = VllmEngine(folder, options, self.template, measured_as=name)
        self.renderer = Renderer(self.template, self.engine.context_tokens)
        self._watch = asyncio.create_task(_end_with(self.engine))
        self._options, self._streams = options, 0

    async def whole(self, request: Generation) -> AsyncGenerator[Event, None]:
        """Whether `request` is rejected, or accepted; then every completion as a whole."""
        added: list[list[Added]] = [[] for _ in range(request.n)]
        reports: dict[int, Report] = {}
        prompt_tokens = 0
        # A stop string has to be seen when it comes.
        async with aclosing(self._events(request, as_whole=not request.stop)) as events:
            async for event in events:
                if isinstance(event, Added):
                    added[event.choice].append(event)
                elif isinstance(event, Finished):
                    reports[event.choice] = event.report
                else:
                    yield event
                    prompt_tokens = event.prompt_tokens if isinstance(event, Accepted) else 0
        if reports:
            choices = (_joined(events, reports[choice]) for choice, events in enumerate(added))
            yield Completed(prompt_tokens, tuple(choices))

    async def stream(self, request: Generation) -> AsyncGenerator[Event, None]:
        """What happens to `request`, as it happens: rejected, or accepted and completed."""
        self._streams += 1
        try:
            async with aclosing(paced(self._events(request), self._interval_s)) as events:
                async for event in events:
                    yield event
        finally:
            self._streams -= 1

    def _interval_s(self) -> float:
        """Between two texts of one stream."""
        return interval_s(self._options.device, self._streams)

    async def _events(self, request: Generation, *, as_whole: bool = False) -> AsyncGenerator[Event, None]:
        try:
            prompt = await self.renderer.render(request.messages, enable_thinking=request.policy.enable_thinking)
            program = compile_policy(
                request.policy,
                self.template,
                prompt_tokens=len(prompt),
                context_tokens=self.engine.context_tokens,
                max_tokens=request.max_tokens,
            )
        except UserError as error:
            yield Rejected(str(error))
            return
        self.engine.check_alive()  # once it is accepted, a stream has told the client that all is well
        yield Accepted(len(prompt))
        choices = [self._choice(request, program, prompt, choice, as_whole) for choice in range(request.n)]
        async with aclosing(_merged(choices)) as events:
            async for event in events:
                yield event

    async def _choice(
        self, request: Generation, program: Program, prompt: Sequence[int], choice: int, as_whole: bool
    ) -> AsyncGenerator[Event, None]:
        sampling = Sampling(request.temperature, request.top_p, request.top_k, request.seed)
        transcript, stop = Transcript(self.template), StopStrings(request.stop)
        state = start(program)
        run = self.engine.run(program, prompt, sampling, choice, owner=request.owner, as_whole=as_whole)
        async with aclosing(run) as steps:
            async for step in steps:
                state = step.state
                if event := _added(choice, transcript.add(step.tokens), stop, state):
                    yield event
                if stop.found:
                    break
        if event := _added(choice, transcript.finish(), stop, state, last=True):
            yield event
        yield Finished(choice, _report(program, state, stop.found))

    async def facts(self) -> EngineFacts:
        """What this engine is."""
        driver = f"{self.engine.driver} ({self.engine.why_driver})"
        return EngineFacts(driver, self.engine.context_tokens, self.engine.precision)

    async def num_requests(self) -> int:
        """Requests that the engine is working on."""
        return self.engine.num_requests

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica that raises."""
        self.engine.check_alive()

    def __del__(self) -> None:
        if (watch := getattr(self, "_watch", None)) is not None:
            watch.cancel()
        for part in (getattr(self, "renderer", None), getattr(self, "engine", None)):
            if part is not None:
                part.close()


async def _end_with(engine: VllmEngine) -> None:
    """End this process when `engine` has died.

    A replica that refuses everything at once has the shortest queue of all: until Serve has found it unhealthy, it
    would be sent most of the requests.
    """
    while True:
        await asyncio.sleep(_WATCH_S)
        try:
            engine.check_alive()
        except EngineLost:
            logger.exception("the engine has died, and this replica ends")
            await asyncio.sleep(_WATCH_S)  # its requests are told so in the meantime
            os._exit(1)


def _added(choice: int, delta: Delta, stop: StopStrings, state: State, *, last: bool = False) -> Added | None:
    spans = stop.pass_on(delta.spans, last=last)
    if not (delta.reasoning or spans):
        return None
    content = "".join(span.text for span in spans if span.part == "answer")
    counts = (state.thinking_tokens, state.forced_tokens, state.answer_tokens)
    return Added(choice, delta.reasoning, content, tuple(_segment(span) for span in spans), *counts)


def _segment(span: Span) -> Segment:
    return Segment(span.text, span.forced, span.part)


def _joined(events: Sequence[Added], report: Report) -> Choice:
    """One completion from what was added to it; neighbouring segments of one kind become one."""
    joined: list[Segment] = []
    for segment in (segment for event in events for segment in event.segments):
        if joined and (joined[-1].forced, joined[-1].part) == (segment.forced, segment.part):
            segment = replace(segment, text=joined.pop().text + segment.text)
        joined.append(segment)
    reasoning = "".join(event.reasoning for event in events)
    return Choice(reasoning, "".join(event.content for event in events), tuple(joined), report)


def _report(program: Program, state: State, stopped: bool) -> Report:
    return Report(
        thinking_tokens=state.thinking_tokens,
        forced_tokens=state.forced_tokens,
        answer_tokens=state.answer_tokens,
        completion_tokens=state.position,
        rounds=state.rounds,
        max_tokens=program.max_thinking,
        ended_by=ended_by(program, state),
        unmet=unmet(program, state),
        finish_reason="stop" if stopped else finish_reason(state),
    )


async def _merged(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[Item, None]:
    """Items of all streams as they come. Closing it, or the failure of one stream, closes the others."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield item
        return
    queue: asyncio.Queue[Item | None] = asyncio.Queue()

    async def drain(stream: AsyncGenerator[Item, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    queue.put_nowait(item)
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(drain(stream)) for stream in streams]
    try:
        for _ in tasks:
            while (item := await queue.get()) is not None:
                yield item
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
