"""The paper's methods of spending compute at test time, each a function over one engine protocol (section 3.2).

Budget forcing and the conditional methods are one request whose setting says everything; the others ask several times.
What was asked for in vain is paid for all the same: `Response.spent` holds every answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from s1 import extensions
from s1.evaluation.engine import OVERFLOW, Answer, Engine, Request, derived_seed
from s1.evaluation.settings import BestOf, Plan, Rejection, Tree, Vote
from s1.evaluation.voting import majority

REJECTED = "rejected"


@dataclass(frozen=True)
class Response:
    """The answer that counts, and every one that was generated for it."""

    answer: Answer
    spent: tuple[Answer, ...]

    @property
    def completion_tokens(self) -> int:
        return sum(answer.completion_tokens for answer in self.spent)

    @property
    def prompt_tokens(self) -> int:
        return sum(answer.prompt_tokens for answer in self.spent)


class Scorer(Protocol):
    """How good an answer is; higher is better."""

    async def __call__(self, question: str, answer: Answer) -> float: ...


class Reward(Protocol):
    """How promising a piece of thinking is, in [0, 1]."""

    async def __call__(self, question: str, thinking: str) -> float: ...


async def once(engine: Engine, request: Request) -> Response:
    """One response: budget forcing and the conditional methods."""
    answer = await engine(request)
    return Response(answer, (answer,))


async def rejection_sampling(engine: Engine, request: Request, *, max_thinking_tokens: int, max_tries: int) -> Response:
    """Sample until the thinking ends by itself within the limit, at most `max_tries` times.

    The request carries the limit as its cap, so that a try that will not fit stops there; the tries of one question
    wait for each other, questions do not. When none fits, the last one counts, without its answer.
    """
    spent: list[Answer] = []
    for number in range(max_tries):
        spent.append(await engine(_again(request, number)))
        fits = spent[-1].thinking_tokens <= max_thinking_tokens and spent[-1].ended_by in ("natural", None)
        if fits or spent[-1].ended_by == OVERFLOW:
            return Response(spent[-1], tuple(spent))
    return Response(replace(spent[-1], content="", ended_by=REJECTED), tuple(spent))


async def majority_voting(
    engine: Engine, request: Request, *, count: int, same: Callable[[str, str], bool]
) -> Response:
    """`count` samples; the first one of the most frequent answer counts."""
    spent = await _samples(engine, request, count)
    chosen = await asyncio.to_thread(majority, [answer.content for answer in spent], same)
    return Response(spent[chosen], spent)


async def best_of_n(engine: Engine, request: Request, *, count: int, scorer: Scorer) -> Response:
    """`count` samples; the one with the highest score counts, the first of several."""
    spent = await _samples(engine, request, count)
    scores = await asyncio.gather(*(scorer(request.question, answer) for answer in spent))
    return Response(spent[max(range(count), key=lambda index: scores[index])], spent)


async def _samples(engine: Engine, request: Request, count: int) -> tuple[Answer, ...]:
    return tuple(await asyncio.gather(*(engine(_again(request, number)) for number in range(count))))


def _again(request: Request, number: int) -> Request:
    """The same request with random numbers of its own."""
    return replace(request, seed=derived_seed(request.seed, number))


async def respond(engine: Engine, request: Request, plan: Plan | None) -> Response:
    """What `plan` says; one response without one."""
    match plan:
        case None:
            return await once(engine, request)
        case Rejection():
            limit = request.budget_forcing["max_tokens"]
            return await rejection_sampling(engine, request, max_thinking_tokens=limit, max_tries=plan.max_tries)
        case Vote():
            from s1.grading.equality import equivalent

            return await majority_voting(engine, request, count=plan.count, same=equivalent)
        case BestOf():
            return await best_of_n(engine, request, count=plan.count, scorer=extensions.load(plan.scorer))
        case Tree():
            from s1.evaluation.tree import tree_search

            return await tree_search(engine, request, plan, reward=extensions.load(plan.reward))
