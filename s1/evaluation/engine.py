"""The one protocol between the methods and whatever answers: a request in, an answer out.

Ray Serve, any OpenAI-compatible endpoint and vLLM on Ray Data stand behind it alike.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

OVERFLOW = "overflow"  # `ended_by` of a request that does not fit the model's context: nothing was generated


@dataclass(frozen=True)
class Segment:
    """A piece of a response, in order: sampled by the model, or written by the policy."""

    text: str
    forced: bool


@dataclass(frozen=True)
class Answer:
    """What came back for one request. Counts are tokens."""

    thinking: str
    content: str
    thinking_tokens: int
    forced_tokens: int
    answer_tokens: int
    ended_by: str | None  # natural | budget | context | length | overflow | rejected; None: the endpoint does not say
    segments: tuple[Segment, ...]
    latency_s: float
    prompt_tokens: int = 0
    completion_tokens: int = 0  # thinking, answer and control tokens


@dataclass(frozen=True)
class Request:
    """One question in one setting; `key` is the caller's and comes back with the answer."""

    key: Any
    model: str
    question: str
    max_tokens: int | None  # of the whole completion, forced tokens included; None: the context is the bound
    budget_forcing: dict[str, Any]
    temperature: float = 0.0
    seed: int | None = None
    plain: bool = False  # nothing beyond OpenAI's protocol
    thinking: str = ""  # goes on from it; its tokens are not counted again
    enable_thinking: bool = True  # False: the model's own chat format, all of the completion is the answer

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.question}],
            "temperature": self.temperature,
        }
        forcing = None if self.plain or not self.enable_thinking else self.budget_forcing
        more = {"budget_forcing": forcing, "max_tokens": self.max_tokens, "seed": self.seed}
        if not self.enable_thinking:
            more["chat_template_kwargs"] = {"enable_thinking": False}
        return body | {name: value for name, value in more.items() if value is not None}


class Engine(Protocol):
    """Answers one request; any number of them at a time. UserError when it cannot."""

    async def __call__(self, request: Request) -> Answer: ...


def overflowed(latency_s: float = 0.0) -> Answer:
    """The answer to a request that does not fit the context: empty, counted, wrong."""
    return Answer("", "", 0, 0, 0, OVERFLOW, (), round(latency_s, 4))


def derived_seed(*parts: object) -> int:
    """A seed that follows from `parts` alone: the same on every machine, in every order of the questions."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


async def as_they_come(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], at_once: int
) -> AsyncGenerator[tuple[Item, Result]]:
    """Results of `work` on every item as they come, at most `at_once` under way; the first failure ends all."""
    waiting = iter(items)
    running: set[asyncio.Task[tuple[Item, Result]]] = set()

    async def one(item: Item) -> tuple[Item, Result]:
        return item, await work(item)

    try:
        while True:
            while len(running) < at_once:
                item = next(waiting, _END)
                if item is _END:
                    break
                running.add(asyncio.create_task(one(item)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


_END: Any = object()
