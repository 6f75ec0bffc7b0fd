"""The client against a real HTTP server of this process that speaks the protocol."""

import asyncio
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from chat_server import FORCED, serving
from teacher_server import Reply

from s1.endpoint import Endpoint, check_reached, served_models, server_facts
from s1.errors import UserError
from s1.evaluation import client
from s1.evaluation.client import connected, retry_after_s
from s1.evaluation.engine import OVERFLOW, Answer, Request, Segment, as_they_come


def requests(count: int) -> list[Request]:
    return [Request(number, "tuned", str(number), 64, {"max_tokens": 4}) for number in range(count)]


def ask(endpoint: Endpoint, wanted: list[Request], concurrency: int = 4) -> dict[int, Answer]:
    async def collect() -> dict[int, Answer]:
        async with connected(endpoint, concurrency=concurrency, timeout_s=200) as engine:
            return {request.key: answer async for request, answer in as_they_come(engine, wanted, 16)}

    return asyncio.run(collect())


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)


def test_every_request_is_answered_once_within_the_bound():
    with serving(budget_forcing=FORCED) as server:
        answers = ask(server.endpoint, requests(20))
    assert {key: answer.content for key, answer in answers.items()} == {n: f"Answer: {n}" for n in range(20)}
    assert len(server.bodies) == 20
    assert server.most_under_way <= 4
    assert server.bodies[0]["budget_forcing"] == {"max_tokens": 4}
    assert set(server.keys) == {"Bearer sesame"}


def test_the_policys_own_account_is_read():
    with serving(budget_forcing=FORCED) as server:
        answer = ask(server.endpoint, requests(1))[0]
    assert (answer.thinking_tokens, answer.forced_tokens, answer.answer_tokens) == (4, 6, 2)
    assert answer.ended_by == "budget"
    assert answer.segments == (Segment("2 + 2", False), Segment("\nFinal Answer:", True))


def test_an_endpoint_without_budget_forcing_is_read_from_its_usage():
    with serving() as server:
        answer = ask(server.endpoint, requests(1))[0]
    assert (answer.thinking, answer.thinking_tokens, answer.answer_tokens) == ("2 + 2", 4, 8)
    assert answer.ended_by is None
    assert answer.segments == ()


def test_what_passes_is_tried_again():
    refusals = [(429, {"Retry-After": "0.05"}), (503, {}), (500, {})]
    with serving(refusals) as server:
        assert len(ask(server.endpoint, requests(2))) == 2
    assert len(server.bodies) == 5


def test_trying_again_is_bounded_and_ends_in_one_line():
    with serving([(429, {})] * 100) as server, pytest.raises(UserError, match=r"429 6 times to 0: .*not now") as error:
        ask(server.endpoint, requests(1))
    assert len(server.bodies) == client.ATTEMPTS
    assert "\n" not in str(error.value)


def test_a_request_that_is_wrong_is_not_tried_again():
    with serving([(400, {})]) as server, pytest.raises(UserError, match="answered 400 to 0"):
        ask(server.endpoint, requests(1))
    assert len(server.bodies) == 1


def test_an_endpoint_tells_what_it_serves():
    with serving() as server:
        assert served_models(server.endpoint) == ["base", "tuned"]
        endpoint = server.endpoint
    with pytest.raises(UserError, match="nothing answers there") as error:
        served_models(endpoint)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="lost 6 times"):
        ask(endpoint, requests(1))


def test_an_answer_that_is_no_completion_is_named():
    with serving(choices=[]) as server, pytest.raises(UserError, match="not a chat completion"):
        ask(server.endpoint, requests(1))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("1e9", 60.0), ("Thu, 01 Jan 1970 00:00:10 GMT", 7.0), ("soon", None)],
)
def test_retry_after_holds_seconds_or_a_date(value: str, seconds: float | None):
    assert retry_after_s({"retry-after": value}, now=3.0) == seconds


def test_the_key_is_not_shown():
    assert "sesame" not in repr(Endpoint("http://x/v1", "sesame"))


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 2048 tokens. However, you requested 4096 tokens",
        "the prompt has 600 tokens and the model's context 512; shorten it",
    ],
)
def test_a_question_that_does_not_fit_is_answered_with_nothing(message: str):
    with serving([(400, {})]) as server:
        server.refusal = message
        answer = ask(server.endpoint, requests(1))[0]
    assert (answer.ended_by, answer.content, answer.thinking_tokens) == (OVERFLOW, "", 0)
    assert len(server.bodies) == 1


def test_what_was_cut_off_by_an_endpoint_without_budget_forcing_is_known():
    message = {"role": "assistant", "content": "so far"}
    with serving(choices=[{"message": message, "finish_reason": "length"}]) as server:
        assert ask(server.endpoint, requests(1))[0].ended_by == "length"


def test_a_seed_is_sent_where_there_is_one():
    with serving() as server:
        ask(server.endpoint, [Request(0, "tuned", "0", None, {}, temperature=0.7, seed=5), *requests(1)])
    assert sorted(body.get("seed", -1) for body in server.bodies) == [-1, 5]


def test_going_on_from_a_thinking_is_refused():
    with serving() as server, pytest.raises(UserError, match="use --offline"):
        ask(server.endpoint, [Request(0, "tuned", "0", None, {}, thinking="2 + 2")])


def test_a_server_may_tell_its_version():
    with serving() as server:
        assert server_facts(server.endpoint) == {}
        server.version = "0.29.0"
        assert server_facts(server.endpoint) == {"versions": {"server": "0.29.0"}}
        ours = {"batch_size": 64, "precision": "bfloat16", "versions": {"vllm": "0.29.0", "ray": "2.60.0"}}
        server.pages["/version"] = {"version": "0.29.0", "more": {}, **ours}
        assert server_facts(server.endpoint) == ours
        for page in ([], {"version": "0.29.0", "batch_size": None}):
            server.pages["/version"] = page
            assert server_facts(server.endpoint).get("batch_size") is None


def test_a_server_of_something_else_is_told_from_an_endpoint(tmp_path: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="something answers, but no chat completions; give the URL"):
            served_models(Endpoint(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()


@pytest.mark.parametrize("page", [None, Reply({}, 401), Reply({}, 403), Reply({}, 503), Reply(b"<html>")])
def test_whatever_answers_has_been_reached(page: Reply | None):
    with serving() as server:
        server.pages["/v1/models"] = page
        check_reached(server.endpoint, "openai.base_url")
        endpoint = server.endpoint
    with pytest.raises(UserError, match=r"^openai.base_url='http://127.0.0.1:\d+/v1': nothing answers there \(.*\); "):
        check_reached(endpoint, "openai.base_url")


@pytest.mark.parametrize(("status", "message"), [(503, "answers 503; wait until it is up"), (401, "refuses the key")])
def test_an_endpoint_that_cannot_be_asked_now_is_named(status: int, message: str):
    with serving() as server:
        server.pages["/v1/models"] = Reply({}, status)
        with pytest.raises(UserError, match=message):
            served_models(server.endpoint)
