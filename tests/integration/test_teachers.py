"""Teachers that need no Ray: the endpoint against a real HTTP server, recorded traces against real files."""

import asyncio
import json
import random
from email.utils import formatdate

import pytest
from teacher_server import Reply, completion, refusal, teaching

from s1.errors import UserError
from s1.teachers import recorded, registry, service
from s1.teachers.asking import ask_patiently
from s1.teachers.openai import OpenAI, OpenAITeacher
from s1.teachers.protocol import PASSING, Question, Status, TraceOutcome, split_think_tags
from s1.teachers.recorded import Recorded, RecordedTeacher
from s1.teachers.retry import Retry, retry_after_s

QUICK = Retry(attempts=4, first_pause_s=0.01, longest_pause_s=0.05)


class OpenGate:
    """Lets everything through and waits as long as it is told."""

    async def enter(self) -> int:
        return 0

    async def leave(self, permit: int, result: object) -> None:
        pass

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def kept(outcome: TraceOutcome) -> TraceOutcome:
    return outcome


def ask(base_url: str, text: str = "2 + 2?", gate: OpenGate | None = None, **settings: object):
    values = OpenAI.model_validate({"base_url": base_url, "model": "r1", "retry": QUICK, "timeout_s": 5.0, **settings})

    async def until_it_ends():
        teacher = OpenAITeacher(values, service.api_key(values, "openai"))
        try:
            asked = Question("q", text)
            return await ask_patiently(teacher, asked, gate or OpenGate(), values, random.Random(0), kept)
        finally:
            await teacher.aclose()

    return asyncio.run(until_it_ends())


@pytest.mark.parametrize("where", ["reasoning", "reasoning_content"])
def test_the_thinking_is_found_in_either_field(where):
    with teaching(lambda *_: completion("2 + 2 = 4", "4", where=where)) as server:
        outcome = ask(server.base_url, usd_per_million_input=1.0, usd_per_million_output=2.0)
    assert (outcome.status, outcome.thinking, outcome.attempt) == (Status.OK, "2 + 2 = 4", "4")
    assert (outcome.input_tokens, outcome.output_tokens) == (10, 20)
    assert outcome.cost_usd == pytest.approx(50e-6)
    assert outcome.model_version == "r1-0528"


def test_an_answer_without_usage_costs_what_was_expected():
    reply = completion("2 + 2 = 4", "4")
    reply.payload["usage"] = None
    with teaching(lambda *_: reply) as server:
        outcome = ask(server.base_url, usd_per_million_output=2.0, expected_output_tokens=500)
    assert (outcome.output_tokens, outcome.cost_usd) == (None, pytest.approx(1e-3))


@pytest.mark.parametrize("content", ["<think>\n2 + 2 = 4\n</think>\n\n4", "2 + 2 = 4</think>4"])
def test_the_thinking_is_found_in_tags(content):
    with teaching(lambda *_: completion("", content)) as server:
        outcome = ask(server.base_url)
    assert (outcome.status, outcome.thinking, outcome.attempt) == (Status.OK, "2 + 2 = 4", "4")


def test_the_request_says_what_was_configured(monkeypatch):
    monkeypatch.setenv("A_KEY", "sesame")
    with teaching(lambda *_: completion("a", "b")) as server:
        ask(server.base_url, api_key_env="A_KEY", system="Be brief.", max_tokens=9, extra_body={"top_k": 5})
    assert server.headers[0]["authorization"] == "Bearer sesame"
    assert server.bodies[0] == {
        "model": "r1",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}],
        "max_tokens": 9,
        "top_k": 5,
    }


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (completion("half a", "", reason="length"), Status.TRUNCATED),
        (completion("", "4"), Status.MALFORMED),
        (completion("2 + 2 = 4", " "), Status.MALFORMED),
        (completion("", "<think>never ends"), Status.MALFORMED),
        (completion("", "", reason="content_filter"), Status.BLOCKED),
        (refusal(400, "the prompt is too long"), Status.DECLINED),
        (refusal(401), Status.FATAL),
        (refusal(404, "no such model"), Status.FATAL),
        (refusal(308, "", Location="/elsewhere"), Status.FATAL),
        (refusal(400, "Model Not Exist", code="invalid_request_error"), Status.FATAL),
        (refusal(400, "r1:fre is not a valid model ID", code=400), Status.FATAL),
        (refusal(400, "The response was filtered", code="content_filter"), Status.BLOCKED),
        (refusal(400, "Content Exists Risk", code="invalid_request_error"), Status.BLOCKED),
        (refusal(403, 'm requires moderation on P. Your input was flagged for "x".', code=403), Status.BLOCKED),
        (refusal(403, "this key may not use the model"), Status.FATAL),
        (completion("half a", "half", reason="abort"), Status.TRANSIENT),
        (completion("half a", "half", reason="error"), Status.TRANSIENT),
        (refusal(429, "insufficient_quota"), Status.FATAL),
        (refusal(429, "slow down"), Status.RATE_LIMITED),
        (refusal(410, "retired"), Status.FATAL),
        *((refusal(code), Status.TRANSIENT) for code in (408, 501, 503, 507, 520, 522, 524, 525, 530, 598)),
    ],
)
def test_every_end_has_its_class_and_only_passing_ones_are_asked_again(reply, status):
    with teaching(lambda *_: reply) as server:
        outcome = ask(server.base_url)
    assert outcome.status == status
    assert outcome.is_final == (status in (Status.TRUNCATED, Status.MALFORMED, Status.BLOCKED))
    assert server.asked.total() == (QUICK.attempts if status in PASSING else 1)


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        ({"code": 502, "message": "Provider failed"}, Status.TRANSIENT, "HTTP 200, error 502: Provider failed"),
        ({"code": 429, "message": "slow down"}, Status.RATE_LIMITED, "HTTP 200, error 429: slow down"),
        ({"code": 401, "message": "invalid key"}, Status.FATAL, "HTTP 200, error 401: invalid key"),
        ({"code": 400, "message": "too long"}, Status.DECLINED, "HTTP 200, error 400: too long"),
        ({"message": "Provider failed"}, Status.TRANSIENT, "HTTP 200, error: Provider failed"),
        ({"type": "odd"}, Status.TRANSIENT, "HTTP 200, error: {'type': 'odd'}"),
        ("overloaded", Status.TRANSIENT, "HTTP 200, error: overloaded"),
        (None, Status.TRANSIENT, "not a chat completion (KeyError)"),
    ],
)
def test_an_error_that_comes_as_a_success_is_told_and_classified(error, status, detail):
    with teaching(lambda *_: Reply({"error": error})) as server:
        outcome = ask(server.base_url)
    assert (outcome.status, outcome.detail) == (status, detail)


DOLLAR = {"usd_per_million_output": 1e6 / 20, "expected_input_tokens": 0, "expected_output_tokens": 20}


@pytest.mark.parametrize(
    ("reply", "usd_each"),
    [
        (Reply(drop=True), 1.0),
        (Reply(b"<html>"), 1.0),
        (Reply(b"not gzip", headers={"Content-Encoding": "gzip"}), 1.0),
        (completion("half a", "half", reason="abort", tokens=10), 0.5),
        (refusal(503), 0.0),
        (Reply({"error": {"code": 502, "message": "no"}}), 0.0),
    ],
)
def test_what_was_sent_is_paid_for_unless_the_service_refused_it(reply, usd_each):
    with teaching(lambda *_: reply) as server:
        failed = ask(server.base_url, **DOLLAR)
        assert (failed.status, failed.cost_usd) == (Status.TRANSIENT, 4 * usd_each)
    with teaching(lambda _, count: reply if count < 3 else completion("hm", "7")) as server:
        assert ask(server.base_url, **DOLLAR).cost_usd == 2 * usd_each + 1.0
    unsent = ask("http://127.0.0.1:9/v1", **DOLLAR)
    assert unsent.detail.startswith("ConnectError") and unsent.cost_usd == 0


def test_limits_hear_whether_tokens_are_unknown_or_none_and_whether_the_service_was_reached():
    heard = []

    class Hearing(OpenGate):
        async def leave(self, permit: int, result: object) -> None:
            heard.append((result.tokens, result.unreached))

    uncounted = completion("hm", "7")
    uncounted.payload["usage"] = None
    replies = [Reply(drop=True), refusal(503), refusal(429), uncounted]
    with teaching(lambda _, count: replies[count - 1]) as server:
        ask(server.base_url, gate=Hearing())
        ask("http://127.0.0.1:9/v1", gate=Hearing())
    reached = [(tokens, False) for tokens in (None, 0, 0, None)]
    assert heard == [*reached, *[(0, True)] * QUICK.attempts]


CORRUPT = Reply(b"not gzip", headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    "failure", [refusal(429), refusal(500), refusal(503), refusal(529), Reply(drop=True), Reply(b"<html>"), CORRUPT]
)
def test_a_passing_failure_is_asked_again(failure):
    with teaching(lambda _, count: failure if count < 3 else completion("a", "b")) as server:
        assert ask(server.base_url).status == Status.OK
    assert server.asked.total() == 3


def test_what_keeps_failing_is_given_up_with_its_reason():
    with teaching(lambda *_: refusal(503, "model is\nloading")) as server:
        outcome = ask(server.base_url)
    assert (outcome.status, outcome.detail) == (Status.TRANSIENT, "HTTP 503: model is loading")
    assert ask("http://127.0.0.1:9/v1").detail.startswith("ConnectError")


def test_a_response_that_never_comes_is_a_passing_failure():
    import threading

    hold = threading.Event()

    def script(_: str, count: int) -> Reply:
        if count == 1:
            hold.wait(10)
        return completion("a", "b")

    with teaching(script) as server:
        outcome = ask(server.base_url, timeout_s=0.2)
        hold.set()
    assert outcome.status == Status.OK
    assert server.asked.total() == 2


def test_the_service_decides_how_long_to_wait_within_our_bound():
    draw = random.Random(0)
    assert 7.0 <= Retry().pause_s(1, 7.0, draw, 1800.0) <= 7.7
    assert 300.0 <= Retry(longest_pause_s=60).pause_s(1, 300.0, draw, 1800.0) <= 330.0
    assert Retry(longest_pause_s=60).pause_s(1, 3600.0, draw, 1800.0) == 1800.0
    assert all(0.5 * 2**n <= Retry().pause_s(n + 1, None, draw, 1800.0) <= 2**n for n in range(5))
    assert Retry(longest_pause_s=60).pause_s(500, None, draw, 1800.0) <= 60.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2", 2.0), ("0.5", 0.5), (formatdate(1000, usegmt=True), 100.0), ("soon", None), ("", None), ("nan", None)],
)
def test_retry_after_is_read_as_number_or_date(value, seconds):
    assert retry_after_s({"retry-after": value}, now_s=900.0) == seconds


def test_a_pause_that_was_asked_for_is_kept():
    import time

    with teaching(lambda _, count: refusal(429, Retry_After="0.3") if count == 1 else completion("a", "b")) as server:
        started = time.monotonic()
        ask(server.base_url, retry=Retry(attempts=2, first_pause_s=0.001, longest_pause_s=0.1))
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs --openai.model"),
        ({"model": "r1", "base_url": "localhost:8000"}, "must be a URL"),
        ({"model": "r1", "base_url": "http://a\x00b/v1"}, "must be a URL"),
        ({"model": "r1", "api_key_env": "S1_NO_SUCH_KEY"}, "'S1_NO_SUCH_KEY': this environment variable is not set"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_before_anything_starts(settings, message):
    with pytest.raises(UserError, match=message):
        service.check(OpenAI.model_validate(settings), "openai")


@pytest.mark.parametrize("key", ["sesame\u201d", "ses\u00a0ame", "ses\name", "ses ame", "s\u00e9same", "ses\x7fame"])
def test_a_key_that_no_header_can_carry_is_one_line_without_the_key(monkeypatch, key):
    monkeypatch.setenv("A_KEY", key)
    with pytest.raises(UserError, match=r"openai.api_key_env='A_KEY': character \d of \d of this env") as raised:
        service.check(OpenAI(model="r1", api_key_env="A_KEY"), "openai")
    assert "ame" not in str(raised.value)
    monkeypatch.setenv("A_KEY", "  sesame\n")  # as a file ends
    service.check(OpenAI(model="r1", api_key_env="A_KEY"), "openai")


def test_the_key_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("A_KEY", "sesame")
    options = registry.TeacherOptions.model_validate(
        {"teacher": "openai", "openai": {"model": "m", "api_key_env": "A_KEY"}}
    )
    spec = registry.spec(options)
    assert "sesame" not in repr(spec) + options.model_dump_json() + json.dumps(spec.identity("openai"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>a</think>b", ("a", "b")),
        ("a</think>b", ("a", "b")),
        ("b", (None, "b")),
        ("<think>a", ("a", "")),
    ],
)
def test_think_tags_are_split(text, parts):
    assert split_think_tags(text) == parts


def look_up(settings: Recorded, question: Question):
    return asyncio.run(RecordedTeacher(settings).trace(question))


def test_a_worked_solution_becomes_thinking_and_the_reference_the_attempt():
    outcome = look_up(Recorded(), Question("q", "?", "42", solution="6 x 7 = 42"))
    assert (outcome.status, outcome.thinking, outcome.attempt) == (Status.OK, "6 x 7 = 42", "42")
    last = look_up(Recorded(), Question("q", "?", None, solution="6 x 7 = 42\nSo it is 42."))
    assert (last.thinking, last.attempt) == ("6 x 7 = 42", "So it is 42.")
    assert look_up(Recorded(), Question("q", "?", "42")).status == Status.DECLINED


@pytest.mark.parametrize(
    "row",
    [
        {"question": "What?", "thinking": "Hm.", "attempt": "That."},
        {"problem": "what? ", "message_thinking": "Hm.", "message_content": "That."},
        {"question": "What?", "thinking_trajectories": ["Hm."], "attempt": "That."},
        {"instruction": "What?", "response": "<Thought>\nHm.\n</Thought>\n<Output>\nThat.\n</Output>"},
        {"prompt": "What?", "response": "<think>Hm.</think>That."},
    ],
)
def test_recorded_traces_are_found_by_the_question_whatever_their_fields_are_called(tmp_path, row):
    from s1.hashing import question_id

    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(row))
    outcome = look_up(Recorded(path=str(path)), Question(question_id("What?"), "What?"))
    assert (outcome.status, outcome.thinking, outcome.attempt) == (Status.OK, "Hm.", "That.")
    assert look_up(Recorded(path=str(path)), Question("other", "?")).status == Status.DECLINED


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"question": "What?"}, {}, r"row 1: no attempt \(the fields are question\); name it with --recorded.attempt"),
        ({"question": " ", "attempt": "b"}, {}, "row 1: no question"),
        ({"question": "a", "attempt": "b"}, {"thinking": "cot"}, "row 1: no field 'cot' for the thinking"),
    ],
)
def test_a_file_without_traces_is_named_with_its_row(tmp_path, row, settings, message):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UserError, match=message):
        recorded.load(Recorded(path=str(path), **settings))
