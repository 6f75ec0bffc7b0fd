import pytest

from serve.forced import StopStrings
from serve.protocol import BadRequest, ChatRequest, parse

BODY = {"model": "base", "messages": [{"role": "user", "content": "2 + 2?"}]}


def test_a_request_of_openais_client_needs_no_change():
    request = parse(
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
    assert [message.plain() for message in request.messages][:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
    ]
    assert (request.completion_limit, request.temperature, request.stop_strings) == (9, 0.0, ())


def test_the_budget_can_be_given_by_either_name():
    ours = parse({**BODY, "budget_forcing": {"max_tokens": 5, "num_ignore": 2, "ignore_str": ["Wait", "Hmm"]}})
    assert ours.policy().max_thinking_tokens == 5 and ours.policy().ignore_strings == ("Wait", "Hmm")
    assert parse({**BODY, "thinking_token_budget": 7}).policy().max_thinking_tokens == 7
    both = parse({**BODY, "thinking_token_budget": 7, "budget_forcing": {"max_tokens": 7}})
    assert both.policy().max_thinking_tokens == 7
    assert parse(BODY).policy().max_thinking_tokens is None


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


def test_a_stop_string_is_found_across_pieces_and_never_shown():
    stop = StopStrings(["END", "\n\n"])
    shown = [stop.pass_on(piece) for piece in ("12 E", "N", "T", "\n", "x E", "ND more", "after")]
    assert "".join(shown) == "12 ENT\nx " and stop.found


def test_what_might_have_become_a_stop_string_is_shown_at_the_end():
    stop = StopStrings(["END"])
    assert stop.pass_on("4 EN") + stop.pass_on("", last=True) == "4 EN"
    assert not stop.found


def test_the_schema_can_be_described():
    assert "budget_forcing" in ChatRequest.model_json_schema()["properties"]
