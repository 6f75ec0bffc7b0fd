"""The local server with the script of a served model: chat completions with budgets."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from teacher_server import Reply, TeacherServer, refusal, running

from s1.endpoint import Endpoint

FORCED = {
    "thinking_tokens": 4,
    "forced_tokens": 6,
    "answer_tokens": 2,
    "rounds": 1,
    "ended_by": "budget",
    "segments": [{"text": "2 + 2", "forced": False}, {"text": "\nFinal Answer:", "forced": True}],
}


class Server(TeacherServer):
    """Answers with what `refusals` holds first, then with a completion that repeats the question."""

    def __init__(self, refusals: list[tuple[int, dict[str, str]]], extra: dict[str, Any]) -> None:
        super().__init__(self._answer)
        self.pages["/v1/models"] = {"object": "list", "data": [{"id": "base"}, {"id": "tuned"}]}
        self.refusals, self.extra = refusals, extra
        self.refuse_at: int | None = None  # the number of the request that is refused for good
        self.hold_after: int | None = None  # so many are answered, later requests wait for `release`
        self.release = threading.Event()
        self.refusal = "not now"
        self._numbers = itertools.count(1)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, api_key="sesame")

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("authorization") for headers in self.headers]

    @property
    def version(self) -> str | None:
        return self.pages.get("/version", {}).get("version")

    @version.setter
    def version(self, value: str) -> None:
        self.pages["/version"] = {"version": value}

    def _answer(self, question: str, count: int) -> Reply:
        with self.lock:
            number = next(self._numbers)
            refused = self.refusals.pop() if self.refusals else None
        if self.hold_after is not None and number > self.hold_after:
            self.release.wait(60)
        time.sleep(0.005)  # long enough for others to arrive
        if number == self.refuse_at:
            refused = (400, {})
        if refused is not None:
            return refusal(refused[0], self.refusal, **refused[1])
        message = {"role": "assistant", "reasoning": "2 + 2", "content": f"Answer: {question}"}
        usage = {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 4}}
        return Reply({"choices": [{"message": message}], "usage": usage, **self.extra})


@contextmanager
def serving(refusals: list[tuple[int, dict[str, str]]] | None = None, **extra: Any) -> Iterator[Server]:
    server = Server(refusals or [], extra)
    with running(server):
        yield server
