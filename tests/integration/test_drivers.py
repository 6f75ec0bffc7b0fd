"""Both drivers in the real engine: on the embedded model, and on one that says what the test wants."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import pytest
from chain_model import write_chain_model
from transformers import AutoConfig

from s1 import models
from s1.forcing import BudgetPolicy, compile_policy
from s1.forcing.machine import ended_by, replay
from s1.forcing.transcript import Transcript
from s1.template import Template
from serve.engine import Sampling, VllmEngine
from serve.engine_options import EngineOptions

CONTEXT = 256
GREEDY = Sampling(temperature=0)
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
    "no thinking": BudgetPolicy(enable_thinking=False, max_answer_tokens=40),
    "grace": BudgetPolicy(max_thinking_tokens=40, grace_tokens=30, max_answer_tokens=12),
}


class Parts:
    """Engine, template and a loop that lives as long as they do."""

    def __init__(self, engine, template, runner):
        self.engine, self.template, self.runner = engine, template, runner

    def complete(self, *arguments, **values):
        """For every question and choice: the tokens, the final state, the program."""
        found = self.steps(*arguments, **values)
        return [
            ([token for step in steps for token in step.tokens], steps[-1].state, program) for steps, program in found
        ]

    def steps(self, questions, policy, sampling=GREEDY, driver=None, choices=1, max_tokens=100, as_whole=False):
        """For every question and choice: the steps and the program."""

        async def one(question, choice):
            messages = [{"role": "user", "content": question}]
            prompt = self.template.render_messages(messages, enable_thinking=policy.enable_thinking)
            program = compile_policy(
                policy, self.template, prompt_tokens=len(prompt), context_tokens=CONTEXT, max_tokens=max_tokens
            )
            run = self.engine.run(program, prompt, sampling, choice, driver, as_whole=as_whole)
            return [step async for step in run], program

        async def everything():
            return await asyncio.gather(*(one(question, choice) for question in questions for choice in range(choices)))

        return self.runner.run(everything())

    def styled(self, style):
        """The same engine with delimiters of `style`."""
        return Parts(self.engine, Template(self.template.tokenizer, style), self.runner)

    def plain(self, *arguments, **values):
        """What the engine says by itself."""
        return [id for piece in self.pieces(*arguments, **values) for id in piece]

    def pieces(self, prompt, max_tokens, stop_ids, as_whole=False):
        """The same, as it comes."""

        async def collect():
            values = {"seed": None, "max_tokens": max_tokens, "stop_ids": stop_ids, "as_whole": as_whole}
            outputs = self.engine.generate(prompt, GREEDY, **values)
            return [list(output.outputs[0].token_ids) async for output in outputs]

        return self.runner.run(collect())


@contextmanager
def started(folder, **values):
    from transformers import AutoTokenizer

    # In full precision: a segment computes the tokens before it together, a single pass one by one, and bfloat16
    # rounds the two differently.
    options = EngineOptions(dtype="float32", max_model_len=CONTEXT, max_num_seqs=64, **values)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        for name, value in options.environment().items():
            patch.setenv(name, value)
        template = Template(AutoTokenizer.from_pretrained(folder))

        async def start():
            return VllmEngine(folder, options, template)

        engine = runner.run(start())
        try:
            yield Parts(engine, template, runner)
        finally:
            engine.close()


@pytest.fixture(scope="module")
def embedded():
    with started(models.resolve("embedded:smollm2-135m-instruct"), driver="in-engine") as parts:
        yield parts


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A model that thinks " one two", ends its thinking, and does so again in its answer, as it ends nothing itself."""
    folder = tmp_path_factory.mktemp("chain")
    write_chain_model(folder, "Wait", "answer", "\n", " one", " two", "<|im_start|>", then="answer", padding=3)
    return folder


@pytest.fixture(scope="module")
def forcing_chain(chain):
    with started(chain, driver="in-engine") as parts:
        yield parts


@pytest.fixture(scope="module")
def plain_chain(chain):
    with started(chain, driver="segments") as parts:
        yield parts


@pytest.mark.parametrize("driver", ["segments", "in-engine"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_completion_that_comes_as_a_whole_is_the_same(embedded, name, driver):
    asked = QUESTIONS, POLICIES[name], GREEDY, driver
    whole = embedded.steps(*asked, as_whole=True)
    pieces = embedded.steps(*asked)

    def tokens(found):
        return [[token for step in steps for token in step.tokens] for steps, _ in found]

    assert tokens(whole) == tokens(pieces)
    assert [steps[-1].state for steps, _ in whole] == [steps[-1].state for steps, _ in pieces]


def test_an_engine_gives_out_a_whole_at_once(embedded):
    asked = embedded.template.render_prompt(QUESTIONS[0]), 24, frozenset()
    pieces = embedded.pieces(*asked)
    assert len(pieces) > 1
    assert embedded.pieces(*asked, as_whole=True) == [[id for piece in pieces for id in piece]]


def test_no_two_engines_draw_the_same_numbers_where_no_seed_is_given():
    """As replicas and restarts do: several samples of one request would be counted twice."""

    def sampled():
        with started(models.resolve("embedded:smollm2-135m-instruct"), driver="segments", kv_cache_gib=0.1) as parts:
            found = parts.complete(QUESTIONS[:1], POLICIES["cap 12"], Sampling(temperature=1.0), choices=3)
            return [[token.id for token in tokens] for tokens, _, _ in found]

    assert sampled() != sampled()


@pytest.mark.parametrize("name", POLICIES)
def test_both_drivers_give_the_same_tokens_under_greedy_decoding(embedded, name):
    segments = embedded.complete(QUESTIONS, POLICIES[name], driver="segments")
    in_engine = embedded.complete(QUESTIONS, POLICIES[name], driver="in-engine")
    assert [result[:2] for result in in_engine] == [result[:2] for result in segments]


@pytest.mark.parametrize("name", POLICIES)
def test_both_drivers_agree_on_a_model_that_ends_its_thinking_itself(forcing_chain, plain_chain, name):
    """Each in the engine that it is for; the head's padding, which the model likes best, is never sampled."""
    segments = plain_chain.complete(["Go."], POLICIES[name])
    in_engine = forcing_chain.complete(["Go."], POLICIES[name])
    [(tokens, state, program)] = in_engine
    assert [result[:2] for result in in_engine] == [result[:2] for result in segments]
    assert all(token.id < forcing_chain.template.num_tokens for token in tokens)
    assert replay(program, [(token.id, token.forced) for token in tokens]) == state
    ends = {"cap 12": "natural", "cap 0": "budget", "none": "natural", "grace": "natural"}
    assert ended_by(program, state) == ends.get(name, ended_by(program, state))
    assert state.rounds == {"wait twice": 2}.get(name, state.rounds)


def test_without_a_policy_a_model_that_ends_its_thinking_itself_says_what_plain_vllm_says(forcing_chain, plain_chain):
    prompt = plain_chain.template.render_prompt("Go.")
    said = plain_chain.plain(prompt, 40, plain_chain.template.stop_ids)
    for parts in (forcing_chain, plain_chain):
        [(tokens, state, program)] = parts.complete(["Go."], BudgetPolicy(), max_tokens=40)
        assert [token.id for token in tokens] == said
        assert (state.forced_tokens, ended_by(program, state)) == (0, "natural")
        transcript = Transcript(parts.template)
        transcript.add(tokens)
        assert not transcript.content.startswith("answer"), "the opening of the answer is no part of it"


@pytest.mark.parametrize("driver", ["segments", "in-engine"])
def test_without_thinking_the_output_is_what_plain_vllm_says_to_the_models_own_chat_template(embedded, driver):
    results = embedded.complete(QUESTIONS, BudgetPolicy(enable_thinking=False), driver=driver, max_tokens=60)
    for question, (tokens, state, program) in zip(QUESTIONS, results, strict=True):
        messages = [{"role": "user", "content": question}]
        text = embedded.template.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        said = embedded.plain(embedded.template.control(text), 60, embedded.template.stop_ids)
        assert [token.id for token in tokens] == said
        assert (state.thinking_tokens, state.forced_tokens, ended_by(program, state)) == (0, 0, None)


@pytest.mark.parametrize(("style", "driver"), [("s1", "segments"), ("s1", "in-engine"), ("think-tags", "segments")])
def test_without_a_policy_the_output_is_plain_vllms_token_by_token(embedded, style, driver):
    parts, ended = embedded.styled(style), False
    for question, (tokens, state, program) in zip(
        QUESTIONS, parts.complete(QUESTIONS, BudgetPolicy(), driver=driver, max_tokens=150), strict=True
    ):
        said = parts.plain(parts.template.render_prompt(question), program.longest, program.stop_ids)
        assert [token.id for token in tokens] == said and state.forced_tokens == 0
        ended = ended or state.phase == "done"
    # In the other template this model says more than is waited for here.
    assert ended or style != "s1", "no question ended by itself: nothing was looked at"


def test_think_tags_of_several_tokens_are_written_and_recognised(embedded):
    parts = embedded.styled("think-tags")
    assert len(parts.template.thinking_end) > 1
    for tokens, state, program in parts.complete(QUESTIONS, POLICIES["cap 12"], driver="segments"):
        assert (state.thinking_tokens, ended_by(program, state)) == (12, "budget")
        assert replay(program, [(token.id, token.forced) for token in tokens]) == state
        transcript, read = Transcript(parts.template), parts.template.parse([token.id for token in tokens])
        transcript.add(tokens)
        transcript.finish()
        assert read.thinking_ended and (read.thinking, read.attempt) == (transcript.reasoning, transcript.content)
        assert transcript.content.startswith("Final Answer:")


def test_a_delimiter_of_several_tokens_is_taken_back_as_a_whole(plain_chain):
    template = plain_chain.template
    prompt = template.render_prompt("Go.")
    program = compile_policy(
        BudgetPolicy(num_ignore=1), template, prompt_tokens=len(prompt), context_tokens=CONTEXT, max_tokens=30
    )
    program = replace(program, delimiter=tuple(template.control(" two<|im_start|>")))

    async def collect():
        return [step async for step in plain_chain.engine.run(program, prompt, GREEDY)]

    steps = plain_chain.runner.run(collect())
    thinking = [token.id for step in steps for token in step.tokens if token.part == "thinking"]
    assert template.decode(thinking) == " oneWaitanswer\n one"
    assert (steps[-1].state.rounds, ended_by(program, steps[-1].state)) == (1, "natural")


def test_only_requests_of_one_owner_find_each_others_prompts_in_the_prefix_cache(embedded):
    prompt = embedded.template.render_prompt("A question that nobody else asks, long enough to fill a block. " * 4)

    def cached(owner):
        async def ask():
            arguments = {"seed": None, "max_tokens": 1, "stop_ids": frozenset(), "owner": owner}
            return [output async for output in embedded.engine.generate(prompt, GREEDY, **arguments)]

        return embedded.runner.run(ask())[-1].num_cached_tokens

    assert cached("ann") == 0 and cached("ann") > 0
    assert cached("ben") == 0 == cached("")


def test_requests_that_the_engine_preempts_go_on_where_they_were(embedded):
    """The KV cache holds the beginnings of all of them, and not their ends: some are thrown out and computed again."""
    policy = BudgetPolicy(num_ignore=3, min_thinking_tokens=60, max_thinking_tokens=80, max_answer_tokens=10)
    expected = embedded.complete(QUESTIONS, policy, driver="segments", max_tokens=None)
    folder = models.resolve("embedded:smollm2-135m-instruct")
    config = AutoConfig.from_pretrained(folder)
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    prompts = sum(len(embedded.template.render_prompt(question)) for question in QUESTIONS)
    held = prompts + 32 * len(QUESTIONS)  # a block more for each
    assert held + sum(state.position for _, state, _ in expected) > 1.5 * held
    with started(folder, driver="in-engine", kv_cache_gib=held * token_bytes / 2**30) as parts:
        found = parts.complete(QUESTIONS, policy, max_tokens=None)
    assert [result[:2] for result in found] == [result[:2] for result in expected]
    assert all(state.rounds > 0 for _, state, _ in found)


@pytest.mark.parametrize("driver", ["segments", "in-engine"])
def test_a_prompt_that_almost_fills_the_context_reduces_the_budget_and_stays_within_it(embedded, driver):
    policy = BudgetPolicy(max_thinking_tokens=1000, min_thinking_tokens=500, num_ignore=3)
    question = "Tell me. " * 60
    num_prompt = len(embedded.template.render_prompt(question))
    [(tokens, state, program)] = embedded.complete([question], policy, driver=driver, max_tokens=None)
    assert 200 < num_prompt < CONTEXT and len(tokens) == state.position <= CONTEXT - num_prompt == program.room
    assert ended_by(program, state) == "context"
    assert state.thinking_tokens == program.max_thinking < 1000


@pytest.mark.parametrize("driver", ["segments", "in-engine"])
def test_choices_differ_from_each_other_and_come_again_with_their_seed(embedded, driver):
    policy = BudgetPolicy(max_thinking_tokens=16, num_ignore=1, max_answer_tokens=8)

    def choices():
        results = embedded.complete(QUESTIONS[:1], policy, Sampling(temperature=1, seed=5), driver, choices=3)
        assert all(state.thinking_tokens <= 16 for _, state, _ in results)
        return [[token.id for token in tokens] for tokens, _, _ in results]

    first = choices()
    assert len({tuple(ids) for ids in first}) == 3 and choices() == first


@pytest.mark.parametrize("top_p", [1, 0.8])
def test_sampled_ends_come_as_often_in_both_drivers(embedded, top_p):
    """A model that is not sure when to stop: the mean number of ends is the same within the noise."""
    hot = Sampling(temperature=1.5, top_p=top_p, seed=3)
    policy = BudgetPolicy(max_thinking_tokens=24, num_ignore=1, max_answer_tokens=1)
    means = {}
    for driver in ("segments", "in-engine"):
        results = embedded.complete(QUESTIONS, policy, hot, driver, choices=16)
        assert all(state.thinking_tokens <= 24 for _, state, _ in results)
        means[driver] = sum(state.rounds for _, state, _ in results) / len(results)
    assert abs(means["segments"] - means["in-engine"]) < 0.3
