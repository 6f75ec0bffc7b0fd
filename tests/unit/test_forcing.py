import asyncio

import pytest

from s1.errors import UserError
from s1.forcing import BudgetPolicy, compile_policy, segments
from s1.forcing.machine import ended_by, finish_reason, unmet
from s1.forcing.transcript import Transcript
from s1.template import Template


@pytest.fixture(scope="module")
def template(tokenizer):
    return Template(tokenizer)


def forced(template, policy, *said, prompt_tokens=10, context_tokens=200, max_tokens=None):
    """The completion when the model says `said`, one text for every time it is asked, and stops after each."""
    program = compile_policy(
        policy, template, prompt_tokens=prompt_tokens, context_tokens=context_tokens, max_tokens=max_tokens
    )
    texts = iter(said)

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        yield template.control(next(texts))[:max_tokens]

    async def collect():
        transcript = Transcript(template)
        async for step in segments.run(program, range(prompt_tokens), engine):
            transcript.add(step.tokens)
        transcript.finish()
        return program, step.state, transcript

    return asyncio.run(collect())


def text(transcript):
    """The completion with what was forced in brackets."""
    return "".join(f"[{span.text}]" if span.forced else span.text for span in transcript.spans).replace("][", "")


def test_on_a_natural_end_only_the_opening_of_the_answer_is_written(template):
    policy = BudgetPolicy(max_answer_tokens=20)
    program, state, out = forced(template, policy, "1 + 1\n<|im_start|>", "Answer: 2<|im_end|>")
    assert text(out) == "1 + 1\n<|im_start|>[answer\n]Answer: 2"
    assert (out.reasoning, out.content) == ("1 + 1", "Answer: 2")
    assert (ended_by(program, state), finish_reason(state), state.thinking_tokens) == ("natural", "stop", 5)


def test_a_forced_end_ends_the_line_and_asks_for_the_answer(template):
    policy = BudgetPolicy(max_thinking_tokens=3)
    program, state, out = forced(template, policy, "one two three four", " 4<|im_end|>")
    assert text(out) == "one two three[\n<|im_start|>answer\nFinal Answer:] 4"
    assert (out.reasoning, out.content) == ("one two three", "Final Answer: 4")
    assert ended_by(program, state) == "budget"


def test_a_forced_end_at_a_line_end_writes_no_second_one(template):
    _, _, out = forced(template, BudgetPolicy(max_thinking_tokens=2), "one\n", " 4<|im_end|>")
    assert text(out) == "one\n[<|im_start|>answer\nFinal Answer:] 4"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (" a b c. d e f g", " a b c."),  # the window's first sentence end
        (" a. b c d e f g", " a. b c d e"),  # before the window
        (" a b c d\n e f", " a b c d\n"),
        (" a b 3.5 c d e", " a b 3.5"),  # a decimal point ends no sentence
        (' a b "c." d e f', ' a b "c."'),
    ],
)
def test_in_the_grace_window_the_thinking_ends_where_a_sentence_or_a_line_does(template, said, kept):
    policy = BudgetPolicy(max_thinking_tokens=6, grace_tokens=3)
    program, state, out = forced(template, policy, said, " 4<|im_end|>")
    assert (out.spans[0].text, ended_by(program, state)) == (kept, "budget")


def test_the_grace_window_does_not_go_below_the_minimum(template):
    policy = BudgetPolicy(max_thinking_tokens=8, min_thinking_tokens=6, grace_tokens=8)
    _, state, out = forced(template, policy, " a. b. c. d. e.", " 4<|im_end|>")
    assert (out.reasoning, state.thinking_tokens) == (" a. b. c.", 6)


def test_an_ignored_end_becomes_wait_inside_the_cap(template):
    policy = BudgetPolicy(max_thinking_tokens=5, num_ignore=2)
    _, state, out = forced(template, policy, "one<|im_start|>", " two<|im_start|>", " three", " 4<|im_end|>")
    assert text(out) == "one[Wait] two[Wait] three[\n<|im_start|>answer\nFinal Answer:] 4"
    assert (state.rounds, state.thinking_tokens) == (2, 5)


def test_an_ignore_string_that_does_not_fit_leaves_the_end_alone(template):
    policy = BudgetPolicy(max_thinking_tokens=4, num_ignore=1, ignore_str="Wait, let me check.")
    program, state, out = forced(template, policy, "one two<|im_start|>", "2<|im_end|>")
    assert text(out) == "one two<|im_start|>[answer\n]2"
    assert (ended_by(program, state), state.rounds) == ("natural", 0)


def test_a_minimum_ignores_ends_until_it_is_met_with_the_strings_in_turn(template):
    policy = BudgetPolicy(min_thinking_tokens=4, ignore_str=("Wait", "Hmm"))
    said = ["<|im_start|>", "<|im_start|>", " x<|im_start|>", "2<|im_end|>"]
    program, state, out = forced(template, policy, *said)
    assert text(out) == "[WaitHmm] x<|im_start|>[answer\n]2"
    assert unmet(program, state) is None and state.thinking_tokens >= 4


def test_a_budget_of_0_answers_at_once(template):
    _, state, out = forced(template, BudgetPolicy(max_thinking_tokens=0), " 4<|im_end|>")
    assert text(out) == "[<|im_start|>answer\nFinal Answer:] 4"
    assert (out.reasoning, state.thinking_tokens) == ("", 0)


def test_without_thinking_everything_is_the_answer_and_nothing_is_forced(template):
    policy = BudgetPolicy(enable_thinking=False, max_answer_tokens=20)
    program, state, out = forced(template, policy, "It is 4.\n<|im_start|>answer\n4<|im_end|>")
    assert (out.reasoning, out.content) == ("", "It is 4.\nanswer\n4")
    assert (state.thinking_tokens, state.forced_tokens, ended_by(program, state)) == (0, 0, None)
    assert (finish_reason(state), unmet(program, state)) == ("stop", None)


@pytest.mark.parametrize("bounds", [{"max_tokens": 3}, {"context_tokens": 13}, {"max_answer_tokens": 3}])
def test_without_thinking_the_answer_is_bounded_all_the_same(template, bounds):
    policy = BudgetPolicy(enable_thinking=False, max_answer_tokens=bounds.pop("max_answer_tokens", None))
    _, state, out = forced(template, policy, " a b c d e", **bounds)
    assert (out.content, finish_reason(state)) == (" a b c", "length")


def test_an_immediate_end_is_an_empty_thinking(template):
    _, state, out = forced(template, BudgetPolicy(), "<|im_start|>", "4<|im_end|>")
    assert (out.reasoning, out.content, state.thinking_tokens) == ("", "4", 0)


def test_a_model_that_stops_while_thinking_is_asked_for_its_answer(template):
    program, state, out = forced(template, BudgetPolicy(max_answer_tokens=9), "so<|im_end|>", "4<|im_end|>")
    assert text(out) == "so[<|im_start|>answer\n]4"
    assert ended_by(program, state) == "natural"


@pytest.mark.parametrize(
    ("said", "reasoning", "content"),
    [
        ("so<|im_end|>", "so", ""),
        ("so\n<|im_start|>answer\n4<|im_end|>", "so", "4"),
        ("so\n<|im_start|>answer: 4<|im_end|>", "so", "answer: 4"),
        ("so\n<|im_start|>4<|im_end|>", "so", "4"),
        ("so\n<|im_start|>answer<|im_end|>", "so", "answer"),
        ("so\n<|im_start|><|im_end|>", "so", ""),
    ],
)
def test_without_a_policy_nothing_is_forced_and_an_opening_of_the_models_own_is_no_answer(
    template, said, reasoning, content
):
    program, state, out = forced(template, BudgetPolicy(), said)
    assert (out.reasoning, out.content) == (reasoning, content)
    assert [token.id for token in out.tokens] == template.control(said) and state.forced_tokens == 0
    assert (ended_by(program, state), finish_reason(state)) == ("natural", "stop")


def test_a_context_that_is_too_small_reduces_the_budget_and_says_so(template):
    policy = BudgetPolicy(max_thinking_tokens=1000)
    program, state, out = forced(template, policy, " a" * 300, " b" * 300, prompt_tokens=100, context_tokens=200)
    assert (ended_by(program, state), finish_reason(state)) == ("context", "length")
    assert state.position == 100 and 0 < state.thinking_tokens < 100 and out.content.startswith("Final Answer: b")


def test_without_a_cap_max_tokens_cuts_the_thinking_as_it_does_elsewhere(template):
    program, state, out = forced(template, BudgetPolicy(min_thinking_tokens=20), " a" * 9, max_tokens=9)
    assert (ended_by(program, state), finish_reason(state), unmet(program, state)) == ("length", "length", "length")
    assert (out.reasoning, out.content) == (" a" * 9, "")


def test_max_tokens_leaves_room_for_the_answer_of_a_capped_thinking(template):
    policy = BudgetPolicy(max_thinking_tokens=50)
    program, state, out = forced(template, policy, " a" * 60, " 4<|im_end|>", max_tokens=40)
    assert (ended_by(program, state), finish_reason(state)) == ("length", "stop")
    assert state.position <= 40 and out.content == "Final Answer: 4"


def test_the_answer_can_be_bounded_by_itself(template):
    _, state, out = forced(template, BudgetPolicy(max_answer_tokens=2), "<|im_start|>", " a b c d")
    assert (out.content, finish_reason(state)) == (" a b", "length")


def test_a_stop_inside_a_character_is_shown_as_such_and_streams_whole_characters(template):
    snowman = template.plain("☃")
    assert len(snowman) > 1
    program = compile_policy(BudgetPolicy(), template, prompt_tokens=1, context_tokens=100)

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        for id in snowman if segment == 0 else snowman[:-1]:
            yield [id]
        yield [template.thinking_end[0]] if segment == 0 else [template.end_of_turn[0]]

    async def collect():
        transcript, deltas = Transcript(template), []
        async for step in segments.run(program, [0], engine):
            deltas.append(transcript.add(step.tokens))
        return transcript, [*deltas, transcript.finish()]

    out, deltas = asyncio.run(collect())
    assert out.reasoning == "☃" and [d.reasoning for d in deltas if d.reasoning] == ["☃"]
    assert out.content == "\ufffd" == "".join(delta.content for delta in deltas)


@pytest.mark.parametrize("policy", [BudgetPolicy(max_thinking_tokens=1), BudgetPolicy(num_ignore=1)])
def test_a_cut_inside_a_character_shows_what_is_missing_and_harms_nothing_behind_it(template, policy):
    """The cap, or an end that is ignored, falls between the tokens of one character."""
    snowman = template.plain("☃")
    program = compile_policy(policy, template, prompt_tokens=1, context_tokens=100)
    said = iter([[*snowman[:1], *template.thinking_end], [*template.thinking_end], [*template.plain("4"), 2]])

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        yield next(said)[:max_tokens]

    async def collect():
        transcript = Transcript(template)
        deltas = [transcript.add(step.tokens) async for step in segments.run(program, [0], engine)]
        return transcript, [*deltas, transcript.finish()]

    out, deltas = asyncio.run(collect())
    assert out.reasoning == ("\ufffd" if policy.num_ignore == 0 else "\ufffdWait")
    assert out.reasoning == "".join(delta.reasoning for delta in deltas)
    assert out.content in ("4", "Final Answer:4")


def test_a_tool_call_is_text_of_the_part_in_which_it_stands(template):
    """Requests with tools are refused; what a model writes in their format by itself is not carried out."""
    call = '<tool_call>\n{"name": "add"}\n</tool_call>'
    _, _, out = forced(template, BudgetPolicy(), f"so {call}<|im_start|>", f"{call}<|im_end|>")
    assert (out.reasoning, out.content) == (f"so {call}", call)


def test_text_that_looks_like_a_delimiter_is_plain_in_every_field(template):
    policy = BudgetPolicy(
        1, num_ignore=1, ignore_str="<|im_start|>", final_answer_prefix="<|im_end|>", before_end="<|im_start|>"
    )
    program = compile_policy(policy, template, prompt_tokens=1, context_tokens=100)
    written = {*program.answer_prefix, *program.before_end, *program.ignore[0]}
    assert not written & {*template.thinking_end, *template.stop_ids}


def test_closing_a_completion_closes_the_request_in_the_engine(template):
    program = compile_policy(BudgetPolicy(), template, prompt_tokens=1, context_tokens=100)
    freed = []

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        try:
            while True:
                yield template.plain(" a")
        finally:
            freed.append(segment)

    async def one_step():
        stream = segments.run(program, [0], engine)
        await anext(stream)
        await stream.aclose()

    asyncio.run(one_step())
    assert freed == [0]


def test_an_engine_that_says_nothing_is_an_error_and_not_a_hang(template):
    program = compile_policy(BudgetPolicy(), template, prompt_tokens=1, context_tokens=100)

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        return
        yield

    async def collect():
        return [step async for step in segments.run(program, [0], engine)]

    with pytest.raises(RuntimeError, match="without a token"):
        asyncio.run(collect())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_thinking_tokens": -1}, "max_thinking_tokens=-1"),
        ({"num_ignore": -2}, "num_ignore=-2"),
        ({"max_answer_tokens": 0}, "max_answer_tokens=0"),
        ({"min_thinking_tokens": 5, "max_thinking_tokens": 4}, "min_thinking_tokens=5 is above max_thinking_tokens=4"),
        ({"grace_tokens": 5, "max_thinking_tokens": 4}, "grace_tokens=5 is above max_thinking_tokens=4"),
        ({"grace_tokens": 1}, "grace_tokens=1 is above max_thinking_tokens=None"),
        ({"max_thinking_tokens": 1, "enable_thinking": False}, "max_thinking_tokens=1 and enable_thinking=False"),
        ({"num_ignore": 1, "enable_thinking": False}, "num_ignore=1 and enable_thinking=False"),
        ({"ignore_str": ""}, "ignore_str"),
        ({"ignore_str": ()}, "ignore_str"),
    ],
)
def test_a_policy_that_cannot_be_kept_names_its_field(values, says):
    with pytest.raises(UserError, match=says):
        BudgetPolicy(**values)


def test_a_prompt_that_fills_the_context_is_the_users_to_mend(template):
    with pytest.raises(UserError, match="200 tokens and the model's context 200"):
        compile_policy(BudgetPolicy(), template, prompt_tokens=200, context_tokens=200)


def test_the_longest_ignore_string_still_fits_exactly(template):
    program, state, _ = forced(
        template, BudgetPolicy(max_thinking_tokens=2, num_ignore=1), "one<|im_start|>", " 4<|im_end|>"
    )
    assert (state.rounds, state.thinking_tokens, ended_by(program, state)) == (1, 2, "budget")
