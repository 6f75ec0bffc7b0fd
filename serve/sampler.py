"""The parallel sampler: several forced generations of one request, spread over the engine replicas; one answers.

It stands between the HTTP side and the engines of all models, and holds no model itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from serve import votes
from serve.calls import Events, streaming
from serve.engine import EngineLost
from serve.events import Accepted, Choice, Completed, Event, Generation, Progress, Rejected

Method = Literal["majority", "best_of"]
Queue = asyncio.Queue[tuple[int, Event | Exception]]  # with the index of the generation

# A generation for which no place was free waits for one of the same request to end, or this long, at first and at most.
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 4.0


class Sampler:
    """`engines`: model id -> handle of its deployment."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        self.engines = {name: streaming(engine) for name, engine in engines.items()}

    async def sample(self, model: str, request: Generation, n: int, method: Method) -> AsyncGenerator[Event, None]:
        """`n` generations of `request`: rejected, or accepted; the progress with every end; the one that answers.

        See `sampled`.
        """

        def start(index: int) -> Events:
            return self.engines[model].whole.remote(replace(request, n=1, seed=_seed(request.seed, index)))

        async with aclosing(sampled(start, n, method)) as events:
            async for event in events:
                yield event


async def sampled(start: Callable[[int], Events], n: int, method: Method) -> AsyncGenerator[Event, None]:
    """The events of `n` generations, of which `start` starts one by its index.

    The first asks for a place for all: when the engines have none, BackPressureError ends the request before anything
    was accepted. The others follow when it is accepted. One of them for which no place is free waits and asks again,
    for as long as the request lives, so no number of generations is too many for the engines. Another failure of one
    generation ends the others and the request.
    """
    queue: Queue = asyncio.Queue()
    ended = asyncio.Semaphore(0)

    def generate(index: int) -> asyncio.Task[None]:
        return asyncio.create_task(_generate(start, index, queue, ended))

    tasks = [generate(0)]
    choices: dict[int, Choice] = {}
    prompt_tokens: int | None = None
    try:
        while len(choices) < n:
            index, event = await queue.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Rejected):
                yield event
                return
            if isinstance(event, Accepted) and prompt_tokens is None:
                prompt_tokens = event.prompt_tokens
                tasks += [generate(other) for other in range(1, n)]
                yield event
            elif isinstance(event, Completed):
                (choices[index],) = event.choices
                so_far = [choices[key] for key in sorted(choices)]
                yield Progress(len(choices), n, votes.count(so_far), choices[index].report)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    whole = [choices[index] for index in range(n)]
    chosen = votes.majority(whole) if method == "majority" else votes.best(whole)
    assert prompt_tokens is not None, "an engine accepts a request before it completes it"
    yield Completed(prompt_tokens, (whole[chosen],))


async def _generate(start: Callable[[int], Events], index: int, queue: Queue, ended: asyncio.Semaphore) -> None:
    """Put the events of generation `index` into the queue, and the failure that ended it, if one did.

    `ended`: places that generations of this request gave back.
    """
    from ray.serve.exceptions import BackPressureError

    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            async with aclosing(_generation(start, index)) as events:
                async for event in events:
                    queue.put_nowait((index, event))
            ended.release()
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # by us
            queue.put_nowait((index, EngineLost("an engine cancelled a generation that nobody had given up")))
            return
        except Exception as error:
            if index == 0 or not isinstance(error, BackPressureError):
                queue.put_nowait((index, error))
                return
        try:
            await asyncio.wait_for(ended.acquire(), pause_s * random.uniform(0.5, 1))
        except TimeoutError:
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _generation(start: Callable[[int], Events], index: int) -> AsyncGenerator[Event, None]:
    """The events of one generation, to their end; closing it ends the generation."""
    stream = start(index)
    last: Event | None = None
    try:
        async for last in stream:
            yield last
    finally:
        stream.cancel()
    if not isinstance(last, Completed | Rejected):
        raise RuntimeError("an engine ended a generation without completing it")


def _seed(seed: int | None, index: int) -> int | None:
    """Random numbers of its own for every generation."""
    return None if seed is None else random.Random(f"{seed}/{index}").getrandbits(31)
