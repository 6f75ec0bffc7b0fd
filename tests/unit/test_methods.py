"""Every method over an engine that is a function of its request."""

import asyncio
import random
from dataclasses import replace

import pytest

from s1.evaluation.engine import OVERFLOW, Answer, Request, Segment, as_they_come, derived_seed, overflowed
from s1.evaluation.methods import best_of_n, majority_voting, once, rejection_sampling
from s1.evaluation.scorers import few_repetitions, longest_thinking, shortest_thinking
from s1.evaluation.settings import Tree
from s1.evaluation.tree import shares, tree_search

REQUEST = Request("key", "tuned", "What is 1 + 1?", None, {"max_tokens": 30}, temperature=1.0, seed=7)


def answer(content: str, tokens: int, ended_by: str = "natural") -> Answer:
    return Answer("", content, tokens, 0, 2, ended_by, (), 0.0, prompt_tokens=5, completion_tokens=tokens + 2)


class Chance:
    """Thinks as long as chance has it, and is right when it has thought for 20 tokens; follows the cap."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    async def __call__(self, request: Request) -> Answer:
        self.seeds.append(request.seed)
        tokens = random.Random(request.seed).randrange(10, 100)
        cap = request.budget_forcing["max_tokens"]
        await asyncio.sleep(0)
        return answer(
            "Answer: 2" if tokens > 20 else "Answer: 3", min(tokens, cap), "natural" if tokens <= cap else "budget"
        )


def test_one_request_is_one_response():
    response = asyncio.run(once(Chance(), REQUEST))
    assert response.spent == (response.answer,)
    assert (response.prompt_tokens, response.completion_tokens) == (5, response.answer.thinking_tokens + 2)


def test_rejection_samples_until_the_thinking_fits():
    engine = Chance()
    response = asyncio.run(rejection_sampling(engine, REQUEST, max_thinking_tokens=30, max_tries=100))
    assert response.answer.thinking_tokens <= 30 and response.answer.ended_by == "natural"
    assert all(earlier.ended_by == "budget" for earlier in response.spent[:-1])
    assert len(set(engine.seeds)) == len(engine.seeds) == len(response.spent)


def test_rejection_is_bounded_and_what_never_fitted_has_no_answer():
    request = replace(REQUEST, budget_forcing={"max_tokens": 5})
    response = asyncio.run(rejection_sampling(Chance(), request, max_thinking_tokens=5, max_tries=4))
    assert len(response.spent) == 4
    assert (response.answer.ended_by, response.answer.content) == ("rejected", "")


def test_questions_are_rejected_without_waiting_for_each_other():
    """A question that no try fits does not hold up the others."""
    release = asyncio.Event()

    async def engine(request: Request) -> Answer:
        if request.question == "slow":
            await release.wait()
        return answer("Answer: 2", 10)

    async def everything() -> list[str]:
        async def work(question: str) -> None:
            await rejection_sampling(engine, replace(REQUEST, question=question), max_thinking_tokens=30, max_tries=3)

        done: list[str] = []
        async for question, _ in as_they_come(work, ["slow", "a", "b", "c"], 2):
            done.append(question)
            if len(done) == 3:
                release.set()
        return done

    assert asyncio.run(everything()) == ["a", "b", "c", "slow"]


def test_the_majority_answers():
    contents = iter(["Answer: 3", "Answer: 2", "Answer: 4", "Answer: 2.0"])

    async def engine(request: Request) -> Answer:
        return answer(next(contents), 10)

    def same(one: str, other: str) -> bool:
        return float(one.split()[-1]) == float(other.split()[-1])

    response = asyncio.run(majority_voting(engine, REQUEST, count=4, same=same))
    assert response.answer.content == "Answer: 2"
    assert len(response.spent) == 4


@pytest.mark.parametrize(("scorer", "chosen"), [(shortest_thinking, min), (longest_thinking, max)])
def test_the_best_of_n_is_the_scorers(scorer, chosen):
    response = asyncio.run(
        best_of_n(Chance(), replace(REQUEST, budget_forcing={"max_tokens": 99}), count=8, scorer=scorer)
    )
    tokens = [each.thinking_tokens for each in response.spent]
    assert len(tokens) == 8 and len(set(tokens)) > 1
    assert response.answer.thinking_tokens == chosen(tokens)


def test_an_answer_that_is_empty_scores_least():
    assert asyncio.run(shortest_thinking("?", answer("", 1))) < asyncio.run(shortest_thinking("?", answer("x", 99)))


def test_loops_are_rewarded_least():
    assert asyncio.run(few_repetitions("?", "one two three four five")) == 1
    assert asyncio.run(few_repetitions("?", "1 + 1 = 2 " * 20)) < 0.1
    assert asyncio.run(few_repetitions("?", "")) == 1


class Digger:
    """Thinks one letter per token, g or b by the seed; ends after six letters; answers how many g there are."""

    async def __call__(self, request: Request) -> Answer:
        if request.budget_forcing.get("max_tokens") == 0:
            return answer(f"Answer: {request.thinking.count('g')}", 0, "budget")
        assert request.max_tokens is not None
        left = 6 - len(request.thinking)
        draw = random.Random(request.seed)
        text = "".join(draw.choice("gb") for _ in range(min(left, request.max_tokens)))
        ended = left <= request.max_tokens
        whole = answer("", len(text), "natural" if ended else "length")
        return replace(whole, thinking=text, segments=(Segment(text, False),))


async def good(question: str, thinking: str) -> float:
    return thinking.count("g") / 6


def dig(width: int, max_steps: int = 6, step_tokens: int = 1) -> tuple[int, int]:
    plan = Tree(width, step_tokens, max_steps, "")
    response = asyncio.run(tree_search(Digger(), REQUEST, plan, reward=good))
    assert response.answer.thinking_tokens == len(response.answer.thinking) <= 6
    return int(response.answer.content.removeprefix("Answer: ")), len(response.spent)


def test_the_tree_follows_the_reward():
    found, calls = dig(16)
    alone, _ = dig(1)
    assert found >= 5 > alone - 2
    assert calls <= 16 * 6 + 16


def test_a_tree_that_is_cut_off_answers_where_it_stands():
    found, calls = dig(8, max_steps=2)
    assert 0 < found <= 2
    assert calls <= 8 * 2 + 8


def test_a_question_that_does_not_fit_ends_the_search():
    async def engine(request: Request) -> Answer:
        return overflowed()

    response = asyncio.run(tree_search(engine, REQUEST, Tree(4, 8, 3, ""), reward=good))
    assert response.answer.ended_by == OVERFLOW


def test_children_are_shared_out_by_reward():
    assert shares([1.0, 1.0], 4) == [2, 2]
    assert shares([1.0, 0.0], 4) == [4, 0]
    assert shares([0.6, 0.5, 0.4], 5) == [2, 2, 1]
    assert shares([], 4) == []


def test_seeds_follow_from_their_parts_alone():
    assert derived_seed(1, "a", 0) == derived_seed(1, "a", 0)
    assert len({derived_seed(1, "a", n) for n in range(1000)}) == 1000
    assert all(0 <= derived_seed(n) < 2**31 for n in range(100))


def test_the_first_failure_ends_everything():
    started: list[int] = []

    async def work(number: int) -> None:
        started.append(number)
        if number == 2:
            raise RuntimeError("lost")
        await asyncio.sleep(0)

    async def everything() -> None:
        async for _ in as_they_come(work, range(100), 2):
            pass

    with pytest.raises(RuntimeError, match="lost"):
        asyncio.run(everything())
    assert len(started) < 10
