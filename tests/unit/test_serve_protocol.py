from typing import get_args

import pytest
from openai.types.shared.reasoning_effort import ReasoningEffort

from s1.forcing import BudgetPolicy
from serve import protocol
from serve.budget import EFFORTS, Effort
from serve.events import Message
from serve.protocol import BadRequest, ChatRequest, Terms, TextRequest

BODY = {"model": "base", "messages": [{"role": "user", "content": "2 + 2?"}]}


def parse(body, terms=None):
    return protocol.parse(ChatRequest, body, terms or Terms())


def policy(**fields):
    return parse({**BODY, **fields}).generation.policy


def test_a_request_of_openais_client_needs_no_change():
    order = parse(
        {
            **BODY,
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}], "name": "ann"},
                {"role": "assistant", "content": "4", "reasoning": "easy"},
                {"role": "user", "content": "3 + 3?"},
            ],
            "max_completion_tokens": 9,
            "temperature": 0,
            "stop": None,
            "user": "ann",
            "tools": [],
            "presence_penalty": 0.0,
        }
    )
    asked = order.generation
    assert asked.messages[:2] == (Message("system", "Be brief."), Message("user", "2 + 2?"))
    assert (asked.max_tokens, asked.temperature, asked.stop) == (9, 0.0, ())
    assert order.with_reasoning and not order.stream


def test_no_stop_strings_can_be_said_in_two_ways():
    assert parse({**BODY, "stop": []}).generation.stop == parse({**BODY, "stop": None}).generation.stop == ()
    assert parse({**BODY, "stop": "x"}).generation.stop == parse({**BODY, "stop": ["x"]}).generation.stop == ("x",)


def test_a_prompt_of_text_is_one_turn_of_a_user():
    for prompt in ("2 + 2?", ["2 + 2?"]):
        order = protocol.parse(TextRequest, {"model": "base", "prompt": prompt, "echo": False, "best_of": 1}, Terms())
        assert order.generation.messages == (Message("user", "2 + 2?"),)
    with pytest.raises(BadRequest, match="prompt"):
        protocol.parse(TextRequest, {"model": "base", "prompt": ["a", "b"]}, Terms())


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_token_budget": 512},
        {"reasoning_effort": "minimal"},
        {"reasoning": {"effort": "minimal"}},
        {"reasoning": {"max_tokens": 512}},
        {"thinking": {"type": "enabled", "budget_tokens": 512}},
        {"budget_forcing": {"max_tokens": 512}},
        {"thinking_token_budget": 512, "reasoning_effort": "minimal", "budget_forcing": {"max_tokens": 512}},
    ],
)
def test_every_name_of_the_budget_means_the_same(fields):
    assert policy(**fields) == policy(budget_forcing={"max_tokens": 512})


ON = [{"thinking": {"type": "enabled"}}, {"reasoning": {"enabled": True}}]
ON.append({"chat_template_kwargs": {"enable_thinking": True}})
OFF = [
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"reasoning_effort": "none"},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}},
    {"thinking": {"type": "disabled"}},
]


@pytest.mark.parametrize("fields", [{}, {"chat_template_kwargs": {}}, *ON])
def test_no_name_and_switched_on_mean_no_cap(fields):
    assert policy(**fields) == BudgetPolicy()


@pytest.mark.parametrize("fields", OFF)
def test_every_switch_means_no_thinking_which_is_not_a_budget_of_0(fields):
    assert not policy(**fields).enable_thinking
    assert policy(**fields) == policy(**fields, thinking_token_budget=0) == policy(**{**OFF[0], **fields})
    assert policy(thinking_token_budget=0).enable_thinking
    assert policy(**fields, budget_forcing={"max_answer_tokens": 9}).max_answer_tokens == 9


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize(
    "other",
    [
        {"thinking_token_budget": 3},
        {"budget_forcing": {"num_ignore": 1}},
        {"budget_forcing": {"min_tokens": 1}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ],
)
def test_thinking_that_is_switched_off_is_not_asked_to_be_longer(off, other):
    if off.keys() & other.keys():
        return
    with pytest.raises(BadRequest, match="contradict each other"):
        parse({**BODY, **off, **other})


def test_a_server_can_have_no_effort_mean_a_budget_of_0():
    terms = Terms(efforts={"none": Effort.model_validate({"max_tokens": 0})})
    asked = parse({**BODY, "reasoning_effort": "none"}, terms).generation.policy
    assert asked.enable_thinking and asked.max_thinking_tokens == 0
    with pytest.raises(ValueError, match="leaves no thinking to bound"):
        Effort.model_validate({"enable_thinking": False, "min_tokens": 3})


def test_our_object_says_everything():
    ours = policy(budget_forcing={"max_tokens": 5, "num_ignore": 2, "ignore_str": ["Wait", "Hmm"], "grace_tokens": 3})
    assert (ours.max_thinking_tokens, ours.num_ignore, ours.ignore_strings) == (5, 2, ("Wait", "Hmm"))
    assert (ours.grace_tokens, ours.final_answer_prefix) == (3, "Final Answer:")


def test_a_level_of_effort_can_also_ask_for_more_thinking():
    terms = Terms(efforts={"high": Effort(max_tokens=None, min_tokens=64, num_ignore=2)})
    order = parse({**BODY, "reasoning_effort": "high", "budget_forcing": {"ignore_str": "Hmm"}}, terms)
    thinking = order.generation.policy
    assert (thinking.min_thinking_tokens, thinking.num_ignore, thinking.ignore_str) == (64, 2, "Hmm")
    with pytest.raises(BadRequest, match=r"reasoning_effort='low' is not a level here; there are high"):
        parse({**BODY, "reasoning_effort": "low"}, terms)


def test_reasoning_can_be_left_out_of_the_response():
    assert not parse({**BODY, "reasoning": {"exclude": True}}).with_reasoning


def test_a_server_bounds_what_can_be_asked_for():
    terms = Terms(max_tokens=100, deadline_s=9)
    assert parse(BODY, terms).generation.max_tokens == 100
    assert parse({**BODY, "max_completion_tokens": 7}, terms).generation.max_tokens == 7
    with pytest.raises(BadRequest, match="max_completion_tokens=101: this server completes at most 100"):
        parse({**BODY, "max_completion_tokens": 101}, terms)
    with pytest.raises(BadRequest, match=r"budget_forcing\.min_tokens=101 is above"):
        parse({**BODY, "budget_forcing": {"min_tokens": 101}}, terms)
    assert (parse(BODY, terms).deadline_s, parse({**BODY, "deadline_s": 2}, terms).deadline_s) == (9, 2)
    assert parse({**BODY, "deadline_s": 60}, terms).deadline_s == 9


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
        ({"thinking_budget": 5}, "thinking_budget"),
        ({"budget_forcing": 5}, "budget_forcing"),
        ({"budget_forcing": {"max_tokens": 1.5}}, "budget_forcing.max_tokens"),
        ({"budget_forcing": {"num_ignore": 65}}, "budget_forcing.num_ignore"),
        ({"budget_forcing": {"ignore_str": ""}}, "budget_forcing.ignore_str"),
        ({"budget_forcing": {"cap": 3}}, "budget_forcing.cap"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"reasoning": {"budget": 3}}, "reasoning.budget"),
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"add_vision_id": True}}, "chat_template_kwargs.add_vision_id"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        ({"parallel_sampling": {"n": 1}}, "parallel_sampling.n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_bad_value_is_refused_by_name(change, param):
    with pytest.raises(BadRequest) as refused:
        parse({**BODY, **change})
    assert param in (refused.value.param or "") or param in str(refused.value)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            {"thinking_token_budget": 5, "budget_forcing": {"max_tokens": 6}},
            ("thinking_token_budget=5", "budget_forcing.max_tokens=6"),
        ),
        ({"max_tokens": 5, "max_completion_tokens": 6}, ("max_tokens=5", "max_completion_tokens=6")),
        (
            {"budget_forcing": {"min_tokens": 9, "max_tokens": 6}},
            ("budget_forcing.min_tokens=9", "budget_forcing.max_tokens=6"),
        ),
        (
            {"thinking_token_budget": 5, "budget_forcing": {"min_tokens": 9}},
            ("min_tokens=9", "thinking_token_budget=5"),
        ),
        ({"max_tokens": 5, "budget_forcing": {"min_tokens": 9}}, ("budget_forcing.min_tokens=9", "max_tokens=5")),
        ({"reasoning_effort": "low", "thinking_token_budget": 6}, ("reasoning_effort=low", "thinking_token_budget=6")),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, ("reasoning_effort=low", "reasoning.effort")),
        ({"reasoning": {"effort": "low", "max_tokens": 3}}, ("reasoning.effort=low", "reasoning.max_tokens=3")),
        ({"reasoning": {"enabled": False, "max_tokens": 3}}, ("reasoning.enabled=false", "reasoning.max_tokens=3")),
        (
            {"thinking": {"type": "enabled"}, "reasoning": {"enabled": False}},
            ("thinking.type=enabled", "reasoning.enabled=false"),
        ),
        (
            {"thinking": {"type": "enabled"}, "reasoning_effort": "none"},
            ("thinking.type=enabled", "reasoning_effort=none"),
        ),
        (
            {"thinking": {"type": "disabled"}, "reasoning": {"enabled": True}},
            ("thinking.type=disabled", "reasoning.enabled=true"),
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "thinking": {"type": "enabled"}},
            ("chat_template_kwargs.enable_thinking=false", "thinking.type=enabled"),
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 0},
            ("chat_template_kwargs.enable_thinking=true", "thinking_token_budget=0"),
        ),
        (
            {"reasoning_effort": "none", "budget_forcing": {"num_ignore": 1}},
            ("reasoning_effort=none", "budget_forcing.num_ignore=1"),
        ),
        (
            {"thinking": {"type": "disabled", "budget_tokens": 3}},
            ("thinking.type=disabled", "thinking.budget_tokens=3"),
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 3}, "reasoning": {"max_tokens": 4}},
            ("thinking.budget_tokens=3", "reasoning.max_tokens=4"),
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 3}, "budget_forcing": {"min_tokens": 4}},
            ("thinking.budget_tokens=3", "budget_forcing.min_tokens=4"),
        ),
        (
            {"thinking_token_budget": 3, "budget_forcing": {"grace_tokens": 4}},
            ("thinking_token_budget=3", "budget_forcing.grace_tokens=4"),
        ),
        ({"budget_forcing": {"grace_tokens": 4}}, ("budget_forcing.grace_tokens=4", "budget_forcing.max_tokens")),
        ({"n": 2, "parallel_sampling": {"n": 3}}, ("n=2", "parallel_sampling.n=3")),
        ({"temperature": 0, "parallel_sampling": {"n": 3}}, ("temperature=0", "parallel_sampling.n=3")),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_both_names(change, names):
    with pytest.raises(BadRequest) as refused:
        parse({**BODY, **change})
    assert all(name in str(refused.value) for name in names)


@pytest.mark.parametrize("body", [None, 3, "x", [], {}, [BODY]])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(BadRequest):
        parse(body)


def test_the_levels_of_effort_are_those_of_openais_client_and_rise():
    assert set(EFFORTS) == set(get_args(get_args(ReasoningEffort)[0]))
    caps = [effort.max_tokens for effort in EFFORTS.values()]
    assert caps == sorted(set(caps)) and caps[0] == 0


def test_the_number_of_messages_and_of_parts_is_bounded():
    message, part = {"role": "user", "content": ""}, {"type": "text", "text": ""}
    assert parse({**BODY, "messages": [message] * protocol.MAX_MESSAGES})
    with pytest.raises(BadRequest, match=f"messages: .*{protocol.MAX_MESSAGES}") as refused:
        parse({**BODY, "messages": [message] * (protocol.MAX_MESSAGES + 1)})
    assert refused.value.param == "messages"
    assert parse({**BODY, "messages": [{"role": "user", "content": [part] * protocol.MAX_PARTS}]})
    with pytest.raises(BadRequest, match=str(protocol.MAX_PARTS)) as refused:
        parse({**BODY, "messages": [{"role": "user", "content": [part] * (protocol.MAX_PARTS + 1)}]})
    assert refused.value.param.startswith("messages.0.content")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stop": ["x"] * 17}, "stop: List should have at most 16 items"),
        ({"stop": ["x", 1]}, "stop.1: Input should be a valid string"),
        ({"budget_forcing": {"ignore_str": []}}, "budget_forcing.ignore_str: List should have at least 1 item"),
        ({"verbosity": "low"}, "verbosity: is not known here; leave it out"),
    ],
)
def test_the_rule_that_is_broken_is_the_one_that_is_told(change, said):
    with pytest.raises(BadRequest) as refused:
        parse({**BODY, **change})
    assert str(refused.value).startswith(said)


def test_a_turn_of_the_model_without_content_is_an_empty_one():
    turns = [{"role": "assistant", "content": None}, {"role": "assistant", "reasoning": "hm"}]
    assert [turn.content for turn in parse({**BODY, "messages": turns}).generation.messages] == ["", ""]
    with pytest.raises(BadRequest, match=r"messages\.0\.content"):
        parse({**BODY, "messages": [{"role": "user", "content": None}]})
