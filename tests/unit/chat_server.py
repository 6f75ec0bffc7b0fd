"""A real HTTP server of this process that speaks the chat completions protocol with budgets."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from s1.evaluation.client import Endpoint

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
        self.refuse_at: int | None = None  # the number of the request that is refused for good
        self.hold_after: int | None = None  # so many are answered, later requests wait for `release`
        self.release = threading.Event()
        self.refusal = "not now"
        self.version: str | None = None
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
        if self.path == "/version":
            version = self.server.version
            self.reply(404 if version is None else 200, {"version": version})
            return
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
            if len(server.bodies) == server.refuse_at:
                refusal = (400, {})
            hold = server.hold_after is not None and len(server.bodies) > server.hold_after
        if hold:
            server.release.wait(60)
        time.sleep(0.005)  # long enough for others to arrive
        with server.lock:
            server.under_way -= 1  # before the reply: the client may ask again as soon as it has it
        if refusal is None:
            question = body["messages"][0]["content"]
            message = {"role": "assistant", "reasoning": "2 + 2", "content": f"Answer: {question}"}
            usage = {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 4}}
            self.reply(200, {"choices": [{"message": message}], "usage": usage, **server.extra})
        else:
            self.reply(refusal[0], {"error": {"message": server.refusal}}, refusal[1])


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
