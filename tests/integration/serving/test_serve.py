"""How the service is kept up: keys, limits, queues, deadlines, metrics, drain, lost replicas."""

import asyncio
import json
import threading
import time

import httpx
import psutil
import pytest

from s1.evaluation.client import Endpoint, server_facts
from serving.asking import ENDLESS, HEADERS, ONGOING, ask, body, wait_until_idle

LONG = {"stream": True, "max_tokens": 120, "budget_forcing": {"min_tokens": 120}}


def test_models_and_health(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base"]
    assert client.get("/v1/models/base").json()["id"] == "base"
    assert client.get("/v1/models/other").status_code == 404
    health = client.get("/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok", "models": {"base": "ok"}})


def test_it_says_what_its_answers_depend_on(client, url):
    told = client.get("/version").json()
    assert told["version"] in told["versions"].values()
    facts = server_facts(Endpoint(f"{url}/v1"))
    assert facts == {name: value for name, value in told.items() if name != "version"}
    assert facts["parallelism"] == "1 x tensor parallel 1" and facts["batch_size"] > 0
    assert facts["driver"].startswith("base: in-engine (one pass in vLLM's V1 model runner")


def test_nobody_is_let_in_without_a_key(url):
    for headers in ({}, {"Authorization": "Bearer s1-wrong"}):
        with httpx.Client(base_url=url, headers=headers, timeout=300) as stranger:
            refused = [stranger.post("/v1/chat/completions", json=body()), stranger.get("/v1/models")]
            assert [response.status_code for response in refused] == [401, 401]
            assert all(response.headers["www-authenticate"] == "Bearer" for response in refused)
            assert stranger.get("/health").status_code == stranger.get("/metrics").status_code == 200


def test_a_body_that_is_too_long_is_refused(client):
    response = client.post("/v1/chat/completions", content=b" " * (2**20 + 1))
    assert response.status_code == 413 and "1048576 bytes" in response.json()["error"]["message"]


def test_metrics_count_what_was_forced(client):
    def value(series):
        lines = client.get("/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(series)), 0.0)

    names = ("s1_thinking_tokens_total", "s1_forced_tokens_total", 's1_thinking_ends_total{ended_by="budget"')
    before = [value(name) for name in names]
    report = ask(client, thinking_token_budget=5)["budget_forcing"]
    after = [value(name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [5, report["forced_tokens"], 1]
    assert value('s1_requests_running{model="base"}') == 0


def test_a_full_queue_pushes_back_and_everybody_is_answered(url):
    async def flood():
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=600, limits=limits) as client:
            request = body(max_tokens=40, budget_forcing={"max_tokens": 16, "min_tokens": 16})
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=request) for _ in range(60)))

    responses = asyncio.run(flood())
    codes = [response.status_code for response in responses]
    assert set(codes) == {200, 429} and codes.count(200) >= ONGOING
    refused = [response for response in responses if response.status_code == 429]
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert all(response.json()["error"]["type"] == "rate_limit_error" for response in refused)
    assert all(r.json()["budget_forcing"]["thinking_tokens"] == 16 for r in responses if r.status_code == 200)


def test_a_client_that_goes_away_frees_the_engine(client, engine):
    with client.stream("POST", "/v1/chat/completions", json=body(**ENDLESS)) as response:
        lines = response.iter_lines()  # kept: without it the client hangs up
        assert any("reasoning" in line for line in lines)
        assert engine.num_requests.remote().result() == 1
    wait_until_idle(engine)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=body(**{**ENDLESS, "stream": False}), timeout=1)
    wait_until_idle(engine)


def test_a_request_is_given_up_at_its_deadline(client, engine):
    late = client.post("/v1/chat/completions", json=body(**{**ENDLESS, "stream": False}, deadline_s=0.5))
    assert late.status_code == 504 and "0.5 s" in late.json()["error"]["message"]
    with client.stream("POST", "/v1/chat/completions", json=body(**ENDLESS, deadline_s=0.5)) as response:
        *_, last = (line for line in response.iter_lines() if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 504
    wait_until_idle(engine)


def test_a_killed_replica_is_reported_replaced_and_leaves_nothing_behind(client):
    (engine,) = (process for process in psutil.Process().children(recursive=True) if "EngineCore" in process.name())
    with client.stream("POST", "/v1/chat/completions", json=body(**ENDLESS)) as response:
        lines = response.iter_lines()
        assert any("reasoning" in line for line in lines)
        engine.parent().kill()
        killed = time.monotonic()
        *_, last = (line for line in lines if line)
    assert time.monotonic() - killed < 5
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503
    deadline = time.monotonic() + 600
    while (alive := is_alive(engine)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive
    while (response := client.post("/v1/chat/completions", json=body())).status_code != 200:
        assert response.status_code == 503 and time.monotonic() < deadline, response.text
        time.sleep(0.5)


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_has_begun_is_finished_when_the_service_is_taken_down(client):
    """The last test: nothing is served after it."""
    from ray import serve

    (name,) = serve.status().applications
    with client.stream("POST", "/v1/chat/completions", json=body(**LONG)) as response:
        lines = response.iter_lines()
        assert any("reasoning" in line for line in lines)
        closing = threading.Thread(target=serve.delete, args=(name,))
        closing.start()
        *_, last = (line for line in lines if line)
    closing.join()
    assert last == "data: [DONE]"
