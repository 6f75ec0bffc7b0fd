"""The parallel sampler: several forced generations of one request, spread over the engine replicas; one answers.

It stands between the HTTP side and the engines of all models, and holds no model itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any, Literal

from serve import votes
from serve.calls import streaming
from serve.events import Accepted, Choice, Completed, Event, Generation, Progress, Rejected

Method = Literal["majority", "best_of"]


class Sampler:
    """`engines`: model id -> handle of its deployment."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        self.engines = {name: streaming(engine) for name, engine in engines.items()}

    async def sample(self, model: str, request: Generation, n: int, method: Method) -> AsyncGenerator[Event, None]:
        """`n` generations of `request`: rejected, or accepted; the progress with every end; the one that answers.

        The failure of one generation ends the others and the request.
        """
        queue: asyncio.Queue[tuple[int, Event | BaseException]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._generate(model, request, index, queue)) for index in range(n)]
        choices: dict[int, Choice] = {}
        prompt_tokens: int | None = None
        try:
            while len(choices) < n:
                index, event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, Rejected):
                    yield event
                    return
                if isinstance(event, Accepted) and prompt_tokens is None:
                    prompt_tokens = event.prompt_tokens
                    yield event
                elif isinstance(event, Completed):
                    (choices[index],) = event.choices
                    so_far = [choices[key] for key in sorted(choices)]
                    yield Progress(len(choices), n, votes.count(so_far), choices[index].report)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        ended = [choices[index] for index in range(n)]
        chosen = votes.majority(ended) if method == "majority" else votes.best(ended)
        assert prompt_tokens is not None, "an engine accepts a request before it completes it"
        yield Completed(prompt_tokens, (ended[chosen],))

    async def _generate(
        self, model: str, request: Generation, index: int, queue: asyncio.Queue[tuple[int, Event | BaseException]]
    ) -> None:
        """Put the events of generation `index` into `queue`, and the failure that ended it, if one did."""
        stream = self.engines[model].whole.remote(replace(request, n=1, seed=_seed(request.seed, index)))
        try:
            async for event in stream:
                queue.put_nowait((index, event))
        except Exception as error:
            queue.put_nowait((index, error))
        finally:
            stream.cancel()


def _seed(seed: int | None, index: int) -> int | None:
    """Random numbers of its own for every generation."""
    return None if seed is None else random.Random(f"{seed}/{index}").getrandbits(31)
