"""Whatever a service sends, a teacher makes a classified outcome of it that can be stored. Never an exception."""

import asyncio
import json

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from teacher_server import Reply, candidate, completion, teaching

from actors.teacher_pool import outcome_table
from s1.teachers.gemini import Gemini, GeminiTeacher
from s1.teachers.openai import OpenAI, OpenAITeacher
from s1.teachers.protocol import Question, Status, asked

KEYS = [
    *("choices", "message", "content", "reasoning", "refusal", "finish_reason", "usage", "model", "prompt_tokens"),
    *("candidates", "parts", "text", "thought", "finishReason", "usageMetadata", "thoughtsTokenCount", "modelVersion"),
    *("promptFeedback", "blockReason", "error", "details", "code", "status"),
]
TEXT = st.text(st.characters(), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["STOP", "stop", "length"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> object:
    """A good answer of either service in which something has another value."""
    answer = json.loads(json.dumps(draw(st.sampled_from([completion("a", "b"), candidate("a", "b")])).payload))
    place, key = {"root": answer}, "root"
    while isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
        place = place[key]
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = draw(VALUES)
    return answer


@pytest.mark.parametrize("name", ["openai", "gemini"])
def test_any_answer(name: str):
    reply = [Reply()]
    with teaching(lambda *_: reply[0]) as server, asyncio.Runner() as runner:

        async def build() -> OpenAITeacher | GeminiTeacher:
            if name == "openai":
                return OpenAITeacher(OpenAI(base_url=server.base_url, model="m", timeout_s=200))
            return GeminiTeacher(Gemini(base_url=server.origin, model="m", timeout_s=200), SecretStr("k"))

        teacher = runner.run(build())

        @settings(max_examples=60)
        @example(b"", 200)
        @example(b"[" * 5000, 200)
        @example(b"[" * 5000, 503)
        @example(b'{"choices": [{"message": {"reasoning": "\\ud800", "content": "\\udfff"}}]}', 200)
        @given(damaged() | VALUES | st.binary(max_size=30), st.sampled_from([200, 200, 200, 400, 429, 503]))
        def check(payload: object, status: int) -> None:
            reply[0] = Reply(payload, status)
            outcome = runner.run(asked(teacher, Question("q", "2 + 2?")))
            assert isinstance(outcome.status, Status)
            assert outcome.status == Status.OK or outcome.detail
            table = outcome_table([Question("q", "?")], [outcome])
            assert isinstance(table, pa.Table)
            assert outcome.cost_usd >= 0

        check()
        runner.run(teacher.aclose())
