"""A real HTTP server that plays a thinking model behind chat completions and behind Gemini's interface.

What it answers is a script; it keeps count of what was asked, and of what was paid for: requests answered with 200.
`chat_server` has the script of a served model with budgets.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What goes back: a status with a payload, or (`drop`) a connection that breaks without a word."""

    payload: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


def completion(
    thinking: str, content: str, *, reason: str = "stop", where: str = "reasoning", tokens: int = 20
) -> Reply:
    """A good chat completion with its thinking in the field `where`."""
    message = {"role": "assistant", "content": content, where: thinking}
    usage = {"prompt_tokens": 10, "completion_tokens": tokens}
    return Reply({"model": "r1-0528", "choices": [{"message": message, "finish_reason": reason}], "usage": usage})


def refusal(status: int, message: str = "not now", *, code: object = None, **headers: str) -> Reply:
    """An error in the way that services report it."""
    error = {"message": message, "code": code}
    return Reply({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


def candidate(thinking: str, text: str, *, reason: str = "STOP", **more: Any) -> Reply:
    """A response of Gemini; without thinking and text it has no content, as after recitation."""
    parts = [{"text": thinking, "thought": True}] if thinking else []
    parts += [{"text": text}] if text else []
    content = {"content": {"role": "model", "parts": parts}} if parts else {}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 15, "totalTokenCount": 30}
    version = "gemini-test-001"
    found = {**content, "finishReason": reason, "index": 0}
    return Reply({"candidates": [found], "usageMetadata": usage, "modelVersion": version, **more})


def google_error(code: int, status: str, message: str = "no", details: list[dict[str, Any]] | None = None) -> Reply:
    """An error in Google's way."""
    return Reply({"error": {"code": code, "message": message, "status": status, "details": details or []}}, code)


Script = Callable[[str, int], Reply]  # question, how often it has been asked (from 1)


class TeacherServer(ThreadingHTTPServer):
    """`asked` counts requests, `finished` the answered ones, `paid` those answered with 200, by question."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.pages: dict[str, Any] = {}  # what GET answers, by path: a payload, or a whole Reply
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.under_way = self.most_under_way = 0
        self.progress = threading.Condition(self.lock)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def wait_for(self, num_finished: int, timeout_s: float) -> bool:
        """Until so many requests have been answered."""
        with self.progress:
            return self.progress.wait_for(lambda: self.finished.total() >= num_finished, timeout_s)

    def goes_quiet(self, timeout_s: float) -> bool:
        """Whether, within the time, two seconds pass without a new answer."""
        end = time.monotonic() + timeout_s
        with self.progress:
            while time.monotonic() < end:
                before = self.finished.total()
                if not self.progress.wait_for(lambda before=before: self.finished.total() > before, 2.0):
                    return True
        return False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed break their connections: nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: sent one by one, the second waits for the client's acknowledgement
    server: TeacherServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        self._send(refusal(404) if page is None else page if isinstance(page, Reply) else Reply(page))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = _question(body)
        server = self.server
        with server.lock:
            server.asked[question] += 1
            count = server.asked[question]
            server.bodies.append(body)
            server.paths.append(self.path)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        reply = server.script(question, count)
        with server.lock:
            server.under_way -= 1  # before the reply: the client may ask again as soon as it has it
            server.paid[question] += reply.status == 200 and not reply.drop
        if reply.drop:
            self.close_connection = True
            return
        self._send(reply)
        with server.progress:
            server.finished[question] += 1
            server.progress.notify_all()

    def _send(self, reply: Reply) -> None:
        content = reply.payload if isinstance(reply.payload, bytes) else json.dumps(reply.payload).encode()
        self.send_response(reply.status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {**usual, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def _question(body: dict[str, Any]) -> str:
    """What is asked, in either protocol."""
    if "contents" in body:
        return body["contents"][-1]["parts"][0]["text"]
    return body["messages"][-1]["content"]


@contextmanager
def teaching(script: Script) -> Iterator[TeacherServer]:
    """The server, for the time of the block."""
    server = TeacherServer(script)
    with running(server):
        yield server


@contextmanager
def running(server: TeacherServer) -> Iterator[None]:
    """Answer requests for the time of the block."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
