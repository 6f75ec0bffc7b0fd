"""A real HTTP server that plays a thinking teacher behind chat completions, and keeps count of what was asked."""

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


def completion(thinking: str, content: str, *, reason: str = "stop", where: str = "reasoning") -> Reply:
    """A good response with its thinking in the field `where`."""
    message = {"role": "assistant", "content": content, where: thinking}
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    return Reply({"choices": [{"message": message, "finish_reason": reason}], "usage": usage})


def refusal(status: int, message: str = "not now", **headers: str) -> Reply:
    """An error in the way that services report it."""
    return Reply(
        {"error": {"message": message}}, status, {name.replace("_", "-"): value for name, value in headers.items()}
    )


Script = Callable[[str, int], Reply]  # question, how often it has been asked (from 1)


class TeacherServer(ThreadingHTTPServer):
    """`asked` counts requests, `finished` the answered ones, by question."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.progress = threading.Condition(self.lock)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TeacherServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        server = self.server
        with server.lock:
            server.asked[question] += 1
            count = server.asked[question]
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
        reply = server.script(question, count)
        if reply.drop:
            self.close_connection = True
            return
        content = reply.payload if isinstance(reply.payload, bytes) else json.dumps(reply.payload).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        with server.progress:
            server.finished[question] += 1
            server.progress.notify_all()


@contextmanager
def teaching(script: Script) -> Iterator[TeacherServer]:
    """The server, for the time of the block."""
    server = TeacherServer(script)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
