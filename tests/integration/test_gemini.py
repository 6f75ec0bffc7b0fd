"""The Gemini teacher: Google's own client against a real HTTP server."""

import asyncio
import pickle

import pytest
from teacher_server import Reply, candidate, google_error, refusal, teaching

from s1.errors import UserError
from s1.teachers import registry, service
from s1.teachers.gemini import Gemini, GeminiTeacher
from s1.teachers.protocol import Question, Status, TraceOutcome, asked

KEY = "sesame"


def ask(origin: str, text: str = "2 + 2?", **settings: object) -> TraceOutcome:
    values = {"model": "gemini-test", "base_url": origin, "timeout_s": 5.0, **settings}

    async def once() -> TraceOutcome:
        teacher = GeminiTeacher(Gemini.model_validate(values), service.api_key(Gemini(), "gemini"))
        try:
            return await asked(teacher, Question("q", text))
        finally:
            await teacher.aclose()

    return asyncio.run(once())


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def test_thoughts_are_labelled_as_summaries_and_everything_is_counted():
    with teaching(lambda *_: candidate("two and two", "4")) as server:
        outcome = ask(server.origin, usd_per_million_input=1.0, usd_per_million_output=2.0)
    assert (outcome.status, outcome.thinking, outcome.attempt) == (Status.OK, "two and two", "4")
    assert (outcome.trace_kind, outcome.teacher) == ("summary", "gemini-test")
    assert outcome.model_version == "gemini-test-001"
    assert (outcome.input_tokens, outcome.output_tokens) == (10, 20)  # thoughts are output
    assert outcome.cost_usd == pytest.approx(50e-6)
    assert outcome.finish_reason == "stop"


def test_the_request_asks_for_thoughts_and_says_what_was_configured():
    with teaching(lambda *_: candidate("a", "b")) as server:
        ask(server.origin, thinking_level="low", max_tokens=9, temperature=0.5, system="Be brief.")
    assert server.paths[0].endswith("/models/gemini-test:generateContent")
    assert server.headers[0]["x-goog-api-key"] == KEY
    body = server.bodies[0]
    assert body["generationConfig"]["thinkingConfig"] == {"include_thoughts": True, "thinking_level": "LOW"}
    assert (body["generationConfig"]["maxOutputTokens"], body["generationConfig"]["temperature"]) == (9, 0.5)
    assert body["systemInstruction"]["parts"][0]["text"] == "Be brief."


BLOCKED_PROMPT = Reply(
    {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 10}, "modelVersion": "v"}
)
BAD_KEY = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
OF_THE_DAY = [
    {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
    }
]
RETRY_INFO = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]


@pytest.mark.parametrize(
    ("reply", "status", "final"),
    [
        (candidate("half a", "", reason="MAX_TOKENS"), Status.TRUNCATED, True),
        (candidate("", "", reason="MAX_TOKENS"), Status.TRUNCATED, True),
        (candidate("", "", reason="RECITATION"), Status.RECITATION, True),
        (candidate("", "", reason="SAFETY"), Status.BLOCKED, True),
        (candidate("", "", reason="PROHIBITED_CONTENT"), Status.BLOCKED, True),
        (BLOCKED_PROMPT, Status.BLOCKED, True),
        (candidate("", "4"), Status.MALFORMED, True),
        (candidate("two", ""), Status.MALFORMED, True),
        (candidate("two", "4", reason="OTHER"), Status.MALFORMED, True),
        (candidate("two", "4", reason="A_NEW_REASON"), Status.MALFORMED, True),
        (Reply({}), Status.MALFORMED, True),
        (google_error(429, "RESOURCE_EXHAUSTED"), Status.RATE_LIMITED, False),
        (google_error(503, "UNAVAILABLE"), Status.TRANSIENT, False),
        (google_error(500, "INTERNAL"), Status.TRANSIENT, False),
        (google_error(504, "DEADLINE_EXCEEDED"), Status.TRANSIENT, False),
        (google_error(520, "UNKNOWN"), Status.TRANSIENT, False),
        (refusal(524, "a timeout occurred"), Status.TRANSIENT, False),
        (Reply(drop=True), Status.TRANSIENT, False),
        (Reply(b"<html>"), Status.TRANSIENT, False),
        (Reply(b"not gzip", headers={"Content-Encoding": "gzip"}), Status.TRANSIENT, False),
        (google_error(400, "INVALID_ARGUMENT", "API key not valid", BAD_KEY), Status.FATAL, False),
        (google_error(400, "FAILED_PRECONDITION", "location is not supported"), Status.FATAL, False),
        (google_error(403, "PERMISSION_DENIED"), Status.FATAL, False),
        (google_error(404, "NOT_FOUND", "no such model"), Status.FATAL, False),
        (google_error(410, "GONE", "retired"), Status.FATAL, False),
        (google_error(429, "RESOURCE_EXHAUSTED", "quota", OF_THE_DAY), Status.FATAL, False),
        (google_error(400, "INVALID_ARGUMENT", "too long"), Status.DECLINED, False),
    ],
)
def test_every_end_has_its_class_and_is_asked_for_once(reply: Reply, status: Status, final: bool):
    with teaching(lambda *_: reply) as server:
        outcome = ask(server.origin)
    assert (outcome.status, outcome.is_final) == (status, final)
    assert outcome.detail
    assert "\n" not in outcome.detail
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # it crosses a process
    assert server.asked.total() == 1


def test_what_is_blocked_is_paid_for():
    with teaching(lambda *_: BLOCKED_PROMPT) as server:
        assert ask(server.origin, usd_per_million_input=1e6).cost_usd == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("reply", "cost_usd"),
    [(Reply(drop=True), 1.0), (Reply(b"<html>"), 1.0), (google_error(503, "UNAVAILABLE"), 0.0)],
)
def test_what_was_sent_is_paid_for_unless_the_service_refused_it(reply: Reply, cost_usd: float):
    prices = {"usd_per_million_output": 1e6 / 20, "expected_input_tokens": 0, "expected_output_tokens": 20}
    with teaching(lambda *_: reply) as server:
        assert ask(server.origin, **prices).cost_usd == cost_usd
    assert ask("http://127.0.0.1:9", **prices).cost_usd == 0


def test_the_service_says_when_to_come_back():
    with teaching(lambda *_: google_error(429, "RESOURCE_EXHAUSTED", "slow", RETRY_INFO)) as server:
        assert ask(server.origin).retry_after_s == 7.5
    with teaching(lambda *_: refusal(503, Retry_After="3")) as server:
        assert ask(server.origin).retry_after_s == 3.0
    assert ask("http://127.0.0.1:9").detail.startswith("ConnectError")


def test_a_key_is_needed_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch):
    options = registry.TeacherOptions.model_validate({"teacher": "gemini", "gemini": {"model": "m"}})
    spec = registry.spec(options)
    assert KEY not in repr(spec) + options.model_dump_json() + repr(spec.identity("gemini"))
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UserError, match=r"gemini.api_key_env='GEMINI_API_KEY': this environment variable is not set"):
        registry.check(options)
    with pytest.raises(UserError, match=r"needs --gemini.model"):
        registry.check(registry.TeacherOptions(teacher="gemini"))
