"""Requests that careless and hostile clients send to the service: made by hand, by schemathesis and by Hypothesis."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
Case = tuple[str, str, dict[str, Any]]  # method, path, keywords of the HTTP client
QUESTION = {"role": "user", "content": "What is 12 times 7? Think it through."}


def request(**changes: Any) -> Row:
    """A body that is right, with `changes`."""
    return {"model": "base", "messages": [QUESTION], "temperature": 0, "max_tokens": 48, **changes}


def cases(seed: int, num: int) -> Iterator[Case]:
    """`num` of them, half by hand."""
    draw = random.Random(seed)
    generated = from_schema(seed)
    for number in range(num):
        yield by_hand(draw) if number % 2 else next(generated)


def from_schema(seed: int) -> Iterator[Case]:
    """Those of schemathesis, then bodies that Hypothesis makes from the fields of the requests."""
    from serve.protocol import ChatRequest, TextRequest

    yield from from_openapi(seed)
    while True:
        yield from broken_bodies(seed, "/v1/chat/completions", list(ChatRequest.model_fields))
        yield from broken_bodies(seed, "/v1/completions", list(TextRequest.model_fields))
        seed += 1


def generating(num_examples: int) -> Any:
    """Hypothesis as a source of examples: on a busy machine too, where one may take its time."""
    from hypothesis import HealthCheck, Phase, settings

    checks = list(HealthCheck)
    phases = [Phase.generate]
    return settings(
        max_examples=num_examples, phases=phases, database=None, deadline=None, suppress_health_check=checks
    )


def broken_bodies(seed: int, path: str, fields: list[str]) -> list[Case]:
    """200 bodies that were right before some of their fields were replaced by anything."""
    from hypothesis import given
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=20)
    anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
    keys = st.sampled_from([*fields, "tools", "logprobs", "x"])
    cases: list[Case] = []

    @seeded(seed)
    @generating(200)
    @given(changes=st.dictionaries(keys, anything | small_objects(st), min_size=1, max_size=4))
    def collect(changes: Row) -> None:
        body = request(prompt="x", max_tokens=1) | changes  # what is well-formed after all is short
        body.pop("messages" if path == "/v1/completions" else "prompt", None)
        cases.append(("POST", path, {"data": json.dumps(body), "headers": {"Content-Type": "application/json"}}))

    collect()
    return cases


def small_objects(st: Any) -> Any:
    """Objects of the budget fields, with values at and beyond their bounds."""
    keys = ["max_tokens", "min_tokens", "num_ignore", "ignore_str", "effort", "type", "budget_tokens", "exclude", "n"]
    values = st.integers(-2, 70) | st.sampled_from(["low", "Wait", "", "enabled", "\ud800", "<|im_end|>", True, None])
    return st.dictionaries(st.sampled_from(keys), values, max_size=3)


def from_openapi(seed: int) -> list[Case]:
    """Cases of schemathesis for the description of our interface, valid and not."""
    import schemathesis

    from serve.ingress import api

    schema = schemathesis.openapi.from_dict(api.openapi())
    modes = (schemathesis.GenerationMode.NEGATIVE, schemathesis.GenerationMode.POSITIVE)
    operations = [result.ok() for result in schema.get_all_operations()]
    strategies = [operation.as_strategy(generation_mode=mode) for operation in operations for mode in modes]
    return [case for strategy in strategies for case in described(seed, strategy)]


def described(seed: int, strategy: Any) -> list[Case]:
    """100 cases of one operation; none where nothing can be wrong, as in a path without parameters."""
    from hypothesis import given
    from hypothesis import seed as seeded
    from hypothesis.errors import Unsatisfiable

    cases: list[Case] = []

    @seeded(seed)
    @generating(100)
    @given(case=strategy)
    def collect(case: Any) -> None:
        keywords = case.as_transport_kwargs(base_url="http://x")
        body = json.dumps(keywords["json"]) if "json" in keywords else keywords.get("data")
        sent = {} if body is None else {"data": body}
        cases.append((case.method.upper(), keywords["url"].removeprefix("http://x") or "/", sent))

    with contextlib.suppress(Unsatisfiable):
        collect()
    return cases


def by_hand(draw: random.Random) -> Case:
    """What careless and hostile clients send."""
    paths = ["/v1/chat/completions", "/v1/completions"]
    valid = json.dumps(request(max_tokens=1))
    broken = draw.choice([cut, flipped, nested, wrong_value, wrong_place, odd_text, wrong_request])
    return broken(draw, valid, draw.choice(paths))


def cut(draw: random.Random, valid: str, path: str) -> Case:
    return "POST", path, {"data": valid[: draw.randrange(len(valid))]}


def flipped(draw: random.Random, valid: str, path: str) -> Case:
    raw = bytearray(valid.encode())
    for _ in range(draw.randrange(1, 6)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return "POST", path, {"data": bytes(raw)}


def nested(draw: random.Random, valid: str, path: str) -> Case:
    depth = draw.choice([10, 1_000, 100_000])
    return "POST", path, {"data": draw.choice(["[" * depth, '{"a":' * depth, "[" * depth + "]" * depth])}


def wrong_value(draw: random.Random, valid: str, path: str) -> Case:
    values: list[Any] = [None, True, -1, 0, 2**31, 10**400, 1e308, "", "x", [], {}, [[]], "9" * 5000, "\ud800", "\x00"]
    body = json.loads(valid)
    forcing: Row = {}
    fields = ["model", "messages", "max_tokens", "temperature", "top_p", "top_k", "seed", "n", "stop", "stream"]
    body[draw.choice(fields)] = draw.choice(values)
    forcing[draw.choice(["max_tokens", "min_tokens", "num_ignore", "ignore_str", "before_end"])] = draw.choice(values)
    body[draw.choice(["budget_forcing", "reasoning", "thinking", "parallel_sampling", "stream_options"])] = forcing
    return "POST", path, {"data": json.dumps(body)}


def wrong_place(draw: random.Random, valid: str, path: str) -> Case:
    method = draw.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
    places = ["/v1", "/v1/chat", "/v1//models", "/v1/models/%00", "/v1/models/..%2f..", "/playground/..%2fapp.py"]
    return method, draw.choice([*places, "/nothing", "/playground/x", "/metrics/x", path + "/"]), {"data": valid}


def odd_text(draw: random.Random, valid: str, path: str) -> Case:
    texts = ["<|im_end|>" * 50, "\u202e\u0000\ufffe", "é" * 3000, "a\n" * 900, "\U0001f600" * 200, "</think>" * 9, ""]
    body = json.loads(valid)
    message = copy.copy(QUESTION) | {"content": draw.choice(texts), "role": draw.choice(["user", "system", "tool"])}
    body["messages"] = [message] * draw.choice([1, 2, 40])
    return "POST", "/v1/chat/completions", {"data": json.dumps(body)}


def wrong_request(draw: random.Random, valid: str, path: str) -> Case:
    headers = draw.choice(
        [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}, {"Authorization": "Bearer \xff"}, {"Host": "x"}]
    )
    data = draw.choice([valid.encode("utf-16"), b"\xff" * 20, b"", b"null", b"0", b'"x"', valid.encode() * 2])
    return "POST", path, {"data": data, "headers": headers}
