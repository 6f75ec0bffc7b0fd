"""Tree search over partial thinking under a process reward, balanced as in REBASE (paper, section 6.2).

All open ends grow by one step; the reward of an end decides how many of the next steps go on from it. What has ended
its thinking leaves the tree and takes its share of the width with it. The answers vote, each with its reward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from math import exp, floor
from typing import TYPE_CHECKING

from s1.evaluation.engine import OVERFLOW, Answer, Engine, Request, derived_seed
from s1.evaluation.settings import Tree
from s1.evaluation.voting import vote

if TYPE_CHECKING:
    from s1.evaluation.methods import Response, Reward

TEMPERATURE = 0.2  # of the softmax over rewards in [0, 1]: a tenth of reward is worth 1.6 times the children


@dataclass(frozen=True)
class _End:
    """A piece of thinking that can go on, and how it came about."""

    thinking: str
    tokens: int
    path: tuple[int, ...]  # numbers of its steps: seeds follow from them
    ended: bool = False


def shares(rewards: Sequence[float], width: int) -> list[int]:
    """How many of `width` children each end gets: softmax of its reward, rounded so that the sum is `width`.

    Largest remainders win; earlier ends win ties.
    """
    if not rewards:
        return []
    top = max(rewards)
    weights = [exp((reward - top) / TEMPERATURE) for reward in rewards]
    exact = [width * weight / sum(weights) for weight in weights]
    counts = [floor(value) for value in exact]
    by_remainder = sorted(range(len(rewards)), key=lambda at: (counts[at] - exact[at], at))
    for at in by_remainder[: width - sum(counts)]:
        counts[at] += 1
    return counts


async def tree_search(engine: Engine, request: Request, plan: Tree, *, reward: Reward) -> Response:
    """At most `plan.max_steps` steps deep; every end then answers where it stands.

    The engine has to go on from a given piece of thinking (`Request.thinking`).
    """
    from s1.evaluation.methods import Response

    spent: list[Answer] = []
    finished: list[tuple[_End, float]] = []
    ends, scores = [_End("", 0, ())], [1.0]
    for _ in range(plan.max_steps):
        counts = shares(scores, plan.width - len(finished))
        children = [
            replace(end, path=(*end.path, number))
            for end, count in zip(ends, counts, strict=True)
            for number in range(count)
        ]
        grown = await asyncio.gather(*(engine(_step(request, child, plan)) for child in children))
        spent += grown
        if grown[0].ended_by == OVERFLOW:
            return Response(grown[0], tuple(spent))
        ends = [_grown(child, answer) for child, answer in zip(children, grown, strict=True)]
        scores = list(await asyncio.gather(*(reward(request.question, end.thinking) for end in ends)))
        finished += [(end, score) for end, score in zip(ends, scores, strict=True) if end.ended]
        is_open = [not end.ended for end in ends]
        ends, scores = list(compress(ends, is_open)), list(compress(scores, is_open))
        if not ends:
            break
    finished += zip(ends, scores, strict=True)
    answers = await asyncio.gather(*(engine(_answer(request, end)) for end, _ in finished))
    spent += answers
    whole = [
        (replace(answer, thinking=end.thinking, thinking_tokens=end.tokens), score)
        for answer, (end, score) in zip(answers, finished, strict=True)
    ]
    return Response(_elected(whole) or replace(whole[-1][0], content=""), tuple(spent))


def _step(request: Request, end: _End, plan: Tree) -> Request:
    """Think on, a step long; an answer is asked for later."""
    seed = derived_seed(request.seed, *end.path)
    return replace(request, budget_forcing={}, thinking=end.thinking, seed=seed, max_tokens=plan.step_tokens)


def _grown(end: _End, answer: Answer) -> _End:
    ended = answer.ended_by == "natural"
    # A reader's thinking has no line end at its end; what goes on from it needs it.
    text = answer.thinking if ended else "".join(segment.text for segment in answer.segments)
    return replace(end, thinking=end.thinking + text, tokens=end.tokens + answer.thinking_tokens, ended=ended)


def _answer(request: Request, end: _End) -> Request:
    """Answer where the thinking stands; "Final Answer:" is forced where it did not end by itself."""
    forcing = {**request.budget_forcing, "max_tokens": 0, "num_ignore": 0}
    if end.ended:
        forcing["final_answer_prefix"] = ""
    seed = derived_seed(request.seed, *end.path, "answer")
    thinking = end.thinking.removesuffix("\n") + "\n"  # as the traces have it before the delimiter
    return replace(request, budget_forcing=forcing, thinking=thinking, seed=seed, max_tokens=None)


def _elected(finished: Sequence[tuple[Answer, float]]) -> Answer | None:
    """The best answer of the group with the most reward."""
    groups: dict[str, list[tuple[Answer, float]]] = {}
    for answer, score in finished:
        if text := vote(answer.content):
            groups.setdefault(text, []).append((answer, score))
    if not groups:
        return None
    group = max(groups.values(), key=lambda members: sum(score for _, score in members))
    return max(group, key=lambda member: member[1])[0]
