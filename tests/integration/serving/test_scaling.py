"""Several replicas: of the engine, by load, and of the HTTP side, one of which is lost."""

import asyncio
import time

import httpx
import pytest
from process_tree import below

from serve.app import deployed
from serve.engine_options import EngineOptions
from serve.options import AppOptions, Autoscaling
from serving.asking import HEADERS, KEYS, ask, body

LONG = {"stream": True, "max_tokens": 200, "budget_forcing": {"min_tokens": 200}}


@pytest.fixture(scope="module")
def scaled(url):
    """URL of an application beside the other one, without a slash at its end."""
    options = AppOptions(
        models={"base": "embedded:smollm2-135m-instruct"},
        engine=EngineOptions(max_model_len=512, kv_cache_gib=0.1),
        num_cpus=0.2,
        ingress_replicas=2,
        ingress_cpus=0.05,
        sampler_replicas=0,
        autoscaling=Autoscaling(max_replicas=2, target_ongoing_requests=2, upscale_delay_s=1, downscale_delay_s=1),
        api_keys=KEYS,
    )
    with deployed(options.models, options, timeout_s=600) as base_url:
        yield base_url.removesuffix("/v1")


@pytest.fixture(scope="module")
def name(scaled):
    """Of that application: it is its path."""
    return scaled.rpartition("/")[2]


@pytest.fixture(scope="module")
def client(scaled):
    with httpx.Client(base_url=scaled, headers=HEADERS, timeout=300) as client:
        yield client


def answered(client):
    """Requests with an answer, as whichever replica of the HTTP side tells them."""
    lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith('s1_requests_total{model="base",status="200"}')
    )


def wait_for(what, deadline_s=300):
    deadline = time.monotonic() + deadline_s
    while not what() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert what()


def test_every_replica_of_the_http_side_tells_the_metrics_of_all(client):
    for _ in range(8):
        ask(client, max_tokens=2)
    wait_for(lambda: answered(client) == 8)
    assert {answered(client) for _ in range(20)} == {8}


def test_streams_go_on_when_a_replica_of_the_http_side_is_lost(scaled, name, client):
    before = answered(client)
    http_side = below(f":{name}:ingress")
    assert len(http_side) == 2

    async def follow(asked, begun):
        async with asked.stream("POST", "/v1/chat/completions", json=body(**LONG)) as response:
            last = ""
            async for line in response.aiter_lines():
                last = line or last
                if "reasoning" in line:
                    begun.set()
            return last

    async def follow_and_kill():
        async with httpx.AsyncClient(base_url=scaled, headers=HEADERS, timeout=600) as asked:
            begun = [asyncio.Event() for _ in range(6)]
            streams = [asyncio.create_task(follow(asked, event)) for event in begun]
            await asyncio.gather(*(event.wait() for event in begun))
            http_side[0].kill()
            return await asyncio.gather(*streams, return_exceptions=True)

    ends = asyncio.run(follow_and_kill())
    whole = [end for end in ends if end == "data: [DONE]"]
    assert 0 < len(whole) < len(ends)
    wait_for(lambda: client.get("/health").status_code == 200)
    ask(client, max_tokens=2)
    wait_for(lambda: answered(client) == before + len(whole) + 1)


def test_replicas_of_the_engine_follow_the_load(scaled, name):
    from ray import serve

    def running():
        return serve.status().applications[name].deployments["engine-base"].replica_states.get("RUNNING", 0)

    async def load():
        async with httpx.AsyncClient(base_url=scaled, headers=HEADERS, timeout=600) as asked:

            async def keep_asking():
                while True:
                    await asked.post(
                        "/v1/chat/completions", json=body(max_tokens=100, budget_forcing={"min_tokens": 90})
                    )

            tasks = [asyncio.create_task(keep_asking()) for _ in range(6)]
            try:
                await asyncio.to_thread(wait_for, lambda: running() == 2)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    wait_for(lambda: running() == 1)
    asyncio.run(load())
    wait_for(lambda: running() == 1)
