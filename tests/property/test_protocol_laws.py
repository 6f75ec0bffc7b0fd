"""Whatever a client sends is a request that can be kept, or is refused in words that can be sent."""

import json

from hypothesis import given
from hypothesis import strategies as st

from serve.budget import EFFORTS, BudgetForcing
from serve.protocol import BadRequest, ChatRequest, Terms, TextRequest, parse

TEXT = st.text(st.characters(codec=None), max_size=6)  # halves of characters included
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**30), 10**30) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FORCING = st.dictionaries(
    st.sampled_from([*BudgetForcing.model_fields, "x"]),
    st.integers(-1, 70) | TEXT | JSON,
    max_size=4,
)
KEYS = st.sampled_from([*ChatRequest.model_fields, "user", "tools", "logprobs", "thinking_budget"])
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": TEXT | JSON})
BODIES = st.builds(
    lambda whole, changes: {**whole, **changes},
    st.fixed_dictionaries({"model": TEXT, "messages": st.lists(MESSAGE, max_size=2)}),
    st.dictionaries(KEYS, st.integers(-2, 70) | JSON | FORCING, max_size=4),
)


@given(JSON | BODIES, st.sampled_from([ChatRequest, TextRequest]))
def test_a_body_is_kept_or_refused(body, kind):
    try:
        order = parse(kind, body, Terms(max_tokens=60))
    except BadRequest as refused:
        json.dumps([str(refused), refused.param], ensure_ascii=False).encode()
        return
    asked = order.generation
    assert asked.max_tokens is not None and 1 <= asked.max_tokens <= 60
    policy = asked.policy
    assert policy.max_thinking_tokens is None or policy.min_thinking_tokens <= policy.max_thinking_tokens
    assert all(string for string in policy.ignore_strings)
    "".join([order.model, *(message.content for message in asked.messages)]).encode()


CAP = st.none() | st.integers(0, 3)
LEVEL = st.none() | st.sampled_from(list(EFFORTS))


SWITCH = st.none() | st.booleans()
NAMES = (
    "thinking_token_budget",
    "reasoning_effort",
    "reasoning.effort",
    "reasoning.max_tokens",
    "reasoning.enabled",
    "thinking.type",
    "thinking.budget_tokens",
    "chat_template_kwargs.enable_thinking",
    "budget_forcing.max_tokens",
)


@given(CAP, LEVEL, LEVEL, CAP, SWITCH, SWITCH, CAP, SWITCH, CAP)
def test_budget_fields_are_kept_together_or_refused_by_two_names(
    vllm, openai, level, cap, enabled, type, anthropic, qwen, ours
):
    """Whatever is kept says what every one of the fields says."""
    thinking = {"type": "enabled" if type else "disabled", "budget_tokens": anthropic}
    fields = {
        "thinking_token_budget": vllm,
        "reasoning_effort": openai,
        "reasoning": {"effort": level, "max_tokens": cap} | ({} if enabled is None else {"enabled": enabled}),
        "thinking": None if type is None else thinking,
        "chat_template_kwargs": {} if qwen is None else {"enable_thinking": qwen},
        "budget_forcing": {"max_tokens": ours},
    }
    said = [vllm, cap, ours, *(EFFORTS[name].max_tokens for name in (openai, level) if name)]
    said += [] if type is None else [anthropic]
    off = "none" in (openai, level) or False in (enabled, type, qwen)
    said += [0] * off
    caps = {value for value in said if value is not None}
    try:
        order = parse(ChatRequest, {"model": "m", "messages": [{"role": "user", "content": ""}], **fields}, Terms())
    except BadRequest as refused:
        assert len(caps) > 1 or (caps == {0} and (enabled or type or qwen))
        assert sum(name in str(refused) for name in NAMES) >= 2 and "contradict" in str(refused)
        return
    assert not (caps == {0} and (enabled or type or qwen))
    assert caps == ({order.generation.policy.max_thinking_tokens} - {None})
    assert order.generation.policy.enable_thinking is not off
