"""Whatever a client sends is a request that can be kept, or is refused in words that can be sent."""

import json

from hypothesis import given
from hypothesis import strategies as st

from serve.protocol import BadRequest, ChatRequest, parse

TEXT = st.text(st.characters(codec=None), max_size=6)  # halves of characters included
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**30), 10**30) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FORCING = st.dictionaries(
    st.sampled_from(["max_tokens", "min_tokens", "num_ignore", "ignore_str", "final_answer_prefix", "x"]),
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


@given(JSON | BODIES)
def test_a_body_is_kept_or_refused(body):
    try:
        request = parse(body)
    except BadRequest as refused:
        json.dumps([str(refused), refused.param], ensure_ascii=False).encode()
        return
    policy = request.policy()
    assert policy.max_thinking_tokens is None or policy.min_thinking_tokens <= policy.max_thinking_tokens
    assert all(string for string in policy.ignore_strings)
    "".join([request.model, *(message.plain()["content"] for message in request.messages)]).encode()
