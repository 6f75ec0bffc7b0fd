"""Requests of the tests, and how they are sent."""

import json
import time

from serve.keys import hashed

KEY = "s1-for-the-tests"
KEYS = {"tests": hashed(KEY)}
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUESTION = {"role": "user", "content": "What is 12 times 7? Think it through."}
ENDLESS = {"stream": True, "max_tokens": 400, "budget_forcing": {"min_tokens": 400}}
# Few enough that one test can fill both the engine and its queue.
ONGOING, QUEUED = 8, 4


def body(**changes):
    return {"model": "base", "messages": [QUESTION], "temperature": 0, "max_tokens": 60, **changes}


def ask(client, **changes):
    response = client.post("/v1/chat/completions", json=body(**changes))
    assert response.status_code == 200, response.text
    return response.json()


def chunks_of(response):
    """The JSON values of a stream that ended as it should."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line and not line.startswith(":")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def stream(client, **changes):
    with client.stream("POST", "/v1/chat/completions", json=body(stream=True, **changes)) as response:
        return chunks_of(response)


def wait_until_idle(engine):
    """Until the engine works on no request."""
    wait_until_busy(engine, 0)


def wait_until_busy(engine, num_requests):
    """Until the engine works on that many requests."""
    deadline = time.monotonic() + 60
    while (busy := engine.num_requests.remote().result()) != num_requests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert busy == num_requests
