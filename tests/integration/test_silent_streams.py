"""Clients that people have read a stream with comments in it, over real HTTP, as one without."""

import asyncio
import json
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import openai
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from serve.events import Added, Finished, Report, Segment
from serve.pace import COMMENT, kept_alive
from serve.responses import Envelope

REPORT = Report(1, 0, 2, 3, 0, None, "natural", None, "stop")


@contextmanager
def silent_server():
    """Serves a completion that says nothing for a while before each word."""
    api = FastAPI()

    async def texts():
        envelope = Envelope("chat", "m", with_reasoning=False)
        words = (Added(0, "", word, (Segment(word, False, "answer"),), 1, 0, 1) for word in ("12 ", "times 7"))
        chunks = [*(chunk for word in words for chunk in envelope.added(word)), envelope.finished(Finished(0, REPORT))]
        for chunk in chunks:
            await asyncio.sleep(0.1)
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    @api.post("/v1/chat/completions")
    async def complete() -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        return StreamingResponse(kept_alive(texts(), 0.01), media_type="text/event-stream")

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(api, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url():
    with silent_server() as url:
        yield url


ASKED = {"model": "m", "messages": [{"role": "user", "content": "?"}]}


def test_openais_clients_read_over_the_comments(url: str):
    def text(chunks):
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    async def asynchronously():
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return text([chunk async for chunk in await client.chat.completions.create(stream=True, **ASKED)])

    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert text(client.chat.completions.create(stream=True, **ASKED)) == "12 times 7"
    assert asyncio.run(asynchronously()) == "12 times 7"


def test_comments_are_lines_of_their_own(url: str):
    command = ["curl", "-sN", f"{url}/chat/completions", "-d", json.dumps(ASKED)]
    sent = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert COMMENT in sent
    events = [event for event in sent.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") for event in events) and events[-1] == "data: [DONE]"
