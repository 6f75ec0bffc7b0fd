"""The client against a real HTTP server of this process that speaks the protocol."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from s1.errors import UserError
from s1.evaluation import client
from s1.evaluation.client import Answer, Endpoint, Request, Segment, ask_all, retry_after_s, served_models

FORCED = {
    "thinking_tokens": 4,
    "forced_tokens": 6,
    "answer_tokens": 2,
    "rounds": 1,
    "ended_by": "budget",
    "segments": [{"text": "2 + 2", "forced": False}, {"text": "\nFinal Answer:", "forced": True}],
}


class Server(ThreadingHTTPServer):
    """Answers with what `refusals` holds first, then with a completion that repeats the question."""

    daemon_threads = True

    def __init__(self, refusals: list[tuple[int, dict[str, str]]], extra: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals, self.extra = refusals, extra
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.server_port}/v1", api_key="sesame")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "base"}, {"id": "tuned"}]})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            refusal = server.refusals.pop() if server.refusals else None
        time.sleep(0.005)  # long enough for others to arrive
        with server.lock:
            server.under_way -= 1  # before the reply: the client may ask again as soon as it has it
        if refusal is None:
            question = body["messages"][0]["content"]
            message = {"role": "assistant", "reasoning": "2 + 2", "content": f"Answer: {question}"}
            usage = {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 4}}
            self.reply(200, {"choices": [{"message": message}], "usage": usage, **server.extra})
        else:
            self.reply(refusal[0], {"error": {"message": "not now"}}, refusal[1])


@contextmanager
def serving(refusals: list[tuple[int, dict[str, str]]] | None = None, **extra: Any) -> Iterator[Server]:
    server = Server(refusals or [], extra)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def requests(count: int) -> list[Request]:
    return [Request(number, "tuned", str(number), 64, {"max_tokens": 4}) for number in range(count)]


def ask(endpoint: Endpoint, wanted: list[Request], concurrency: int = 4) -> dict[int, Answer]:
    async def collect() -> dict[int, Answer]:
        answers = ask_all(endpoint, wanted, concurrency=concurrency, timeout_s=20)
        return {request.key: answer async for request, answer in answers}

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
