"""How the service is kept up: keys, limits, queues, deadlines, metrics, drain, lost replicas."""

import asyncio
import json
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from process_tree import below

from s1.endpoint import Endpoint, server_facts
from serving.asking import ENDLESS, HEADERS, ONGOING, QUEUED, ask, body, wait_until_idle

DASHBOARD = Path(__file__).parents[3] / "cluster" / "grafana" / "forcing.json"
RUNNING, WAITING = 's1_requests_running{model="base"}', 's1_requests_waiting{model="base"}'
LONG = {"stream": True, "max_tokens": 120, "budget_forcing": {"min_tokens": 120}}


def test_models_and_health(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("base", 512)
    assert client.get("/v1/models/base").json() == model
    assert client.get("/v1/models/other").status_code == 404
    health = client.get("/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok", "models": {"base": "ok"}})


def test_a_service_is_healthy_while_all_its_places_are_taken(url, engine):
    async def keep_asking(others):
        while True:  # also after a refusal: of requests that come at once, Serve counts all as waiting at first
            await others.post("/v1/chat/completions", json=body(**ENDLESS))
            await asyncio.sleep(0.05)

    async def is_full(others):
        return {f"{RUNNING} {ONGOING}.0", f"{WAITING} 1.0"} <= set((await others.get("/metrics")).text.splitlines())

    async def health_while_full():
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=600) as others, asyncio.timeout(300):
            asking = [asyncio.create_task(keep_asking(others)) for _ in range(ONGOING + 1)]
            try:
                while True:
                    full = await is_full(others)
                    response = await others.get("/health")
                    if full and await is_full(others):
                        return response
                    assert not any(task.done() for task in asking)
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    health = asyncio.run(health_while_full())
    assert (health.status_code, health.json()["models"]) == (200, {"base": "ok"})
    wait_until_idle(engine)


def test_it_says_what_its_answers_depend_on(client, url):
    deadline = time.monotonic() + 60
    while "driver" not in (told := client.get("/version").json()):  # the engines are asked in the background
        assert time.monotonic() < deadline
        time.sleep(0.1)
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


def test_a_client_that_leaves_while_it_sends_is_not_our_failure(client):
    def counted(status):
        lines = client.get("/metrics").text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if re.match(rf's1_requests_total{{.*status="{status}"', line)
        )

    gone, failed = counted(499), counted(500)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {HEADERS['Authorization']}\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        time.sleep(0.1)
    deadline = time.monotonic() + 60
    while counted(499) == gone and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (counted(499), counted(500)) == (gone + 1, failed)


def test_vllms_own_metrics_are_at_rays_port(client):
    """Those that the dashboard draws, for the model's id."""
    import ray

    ask(client)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    drawn = {name for panel in panels for name in re.findall(r"\bray_vllm_\w+", json.dumps(panel.get("targets", "")))}
    (node,) = ray.nodes()
    place = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 120
    seen = set()
    while not drawn <= seen and time.monotonic() < deadline:
        lines = httpx.get(place).text.splitlines()
        seen = {line.split("{")[0] for line in lines if line.startswith("ray_vllm_") and 'model_name="base"' in line}
        time.sleep(0.5)
    assert drawn and drawn <= seen


def test_a_full_queue_pushes_back_and_everybody_is_answered(url):
    async def flood():
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=600, limits=limits) as client:
            request = body(max_tokens=40, budget_forcing={"max_tokens": 16, "min_tokens": 16})
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=request) for _ in range(60)))

    responses = asyncio.run(flood())
    codes = [response.status_code for response in responses]
    # At first none has a place and all are waiting: no more than the queue holds are sure to come in.
    assert set(codes) == {200, 429} and codes.count(200) >= QUEUED
    refused = [response for response in responses if response.status_code == 429]
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert all(response.json()["error"]["type"] == "rate_limit_error" for response in refused)
    assert all(r.json()["budget_forcing"]["thinking_tokens"] == 16 for r in responses if r.status_code == 200)
    # Nobody is counted as waiting or running any more, those least of all who were sent away.
    assert {f"{RUNNING} 0.0", f"{WAITING} 0.0"} <= set(httpx.get(f"{url}/metrics").text.splitlines())


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
    (engine,) = below("EngineCore")
    with client.stream("POST", "/v1/chat/completions", json=body(**ENDLESS)) as response:
        lines = response.iter_lines()
        assert any("reasoning" in line for line in lines)
        engine.parent().kill()
        *_, last = (line for line in lines if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503
    deadline = time.monotonic() + 600
    while (health := client.get("/health")).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert health.status_code == 503 and health.json()["models"]["base"].startswith("no replica answers")
    while (alive := is_alive(engine)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive
    while (response := client.post("/v1/chat/completions", json=body())).status_code != 200:
        assert response.status_code == 503 and time.monotonic() < deadline, response.text
        time.sleep(0.5)
    assert client.get("/health").status_code == 200


def test_a_replica_whose_engine_died_accepts_nothing_more_and_is_replaced(client):
    (engine,) = below("EngineCore")
    replica = engine.parent()
    with client.stream("POST", "/v1/chat/completions", json=body(**ENDLESS)) as response:
        lines = response.iter_lines()
        assert any("reasoning" in line for line in lines)
        engine.kill()
        *_, last = (line for line in lines if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 503
    deadline = time.monotonic() + 600
    request = body(stream=True, max_tokens=4)
    while (response := client.post("/v1/chat/completions", json=request)).status_code != 200:
        assert response.status_code == 503 and time.monotonic() < deadline, response.text
        time.sleep(0.1)
    assert response.text.endswith("data: [DONE]\n\n")  # by the other replica: no stream began and then failed
    assert not is_alive(replica)


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
