"""Both drivers on the real model in the real engine."""

import asyncio

import pytest

from s1 import models
from s1.forcing import BudgetPolicy, compile_policy
from s1.template import Template
from serve.engine import EngineOptions, Sampling, VllmEngine

QUESTIONS = [
    "What is 12 times 7?",
    "Name three rivers.",
    "A cat has 4 legs. How many have 3 cats?",
    "Why is the sky blue?",
]
POLICIES = {
    "none": BudgetPolicy(),
    "cap 12": BudgetPolicy(max_thinking_tokens=12, max_answer_tokens=12),
    "cap 0": BudgetPolicy(max_thinking_tokens=0, max_answer_tokens=12),
    "wait twice": BudgetPolicy(num_ignore=2, max_thinking_tokens=60, ignore_str=("Wait", "Hmm, let me see.")),
    "at least 30": BudgetPolicy(min_thinking_tokens=30, max_thinking_tokens=40, before_end="Time is up."),
}


@pytest.fixture(scope="module")
def parts():
    """Engine, template and a loop that lives as long as they do."""
    from transformers import AutoTokenizer

    # In full precision: a segment computes the tokens before it together, a single pass one by one, and bfloat16
    # rounds the two differently.
    options = EngineOptions(driver="in-engine", dtype="float32", max_model_len=256, max_num_seqs=64)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        for name, value in options.environment().items():
            patch.setenv(name, value)
        folder = models.resolve("embedded:smollm2-135m-instruct")
        template = Template(AutoTokenizer.from_pretrained(folder))

        async def start():
            return VllmEngine(folder, options, template)

        engine = runner.run(start())
        yield engine, template, runner
        engine.close()


def complete(parts, questions, policy, sampling, driver, choices=1):
    engine, template, runner = parts

    async def one(question, choice):
        prompt = template.render_prompt(question)
        program = compile_policy(policy, template, prompt_tokens=len(prompt), context_tokens=256, max_tokens=100)
        steps = [step async for step in engine.run(program, prompt, sampling, choice, driver)]
        return [token for step in steps for token in step.tokens], steps[-1].state

    async def everything():
        return await asyncio.gather(*(one(question, choice) for question in questions for choice in range(choices)))

    return runner.run(everything())


@pytest.mark.parametrize("name", POLICIES)
def test_both_drivers_give_the_same_tokens_under_greedy_decoding(parts, name):
    greedy = Sampling(temperature=0)
    segments = complete(parts, QUESTIONS, POLICIES[name], greedy, "segments")
    in_engine = complete(parts, QUESTIONS, POLICIES[name], greedy, "in-engine")
    assert in_engine == segments


def test_sampled_ends_come_as_often_in_both_drivers(parts):
    """A model that is not sure when to stop: the mean length of its thinking is the same within the noise."""
    hot = Sampling(temperature=1.5, seed=3)
    policy = BudgetPolicy(max_thinking_tokens=24, num_ignore=1, max_answer_tokens=1)
    means = {}
    for driver in ("segments", "in-engine"):
        results = complete(parts, QUESTIONS, policy, hot, driver, choices=10)
        assert all(state.thinking_tokens <= 24 for _, state in results)
        means[driver] = sum(state.rounds for _, state in results) / len(results)
    assert abs(means["segments"] - means["in-engine"]) < 0.35
