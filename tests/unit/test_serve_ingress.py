"""The HTTP side where what stands behind it does not answer, with stand-ins for Serve's handles."""

import asyncio
import json
from types import SimpleNamespace

from ray.exceptions import TaskCancelledError
from starlette.requests import Request

from serve.events import EngineFacts
from serve.health import Health
from serve.ingress import FrontOptions, Ingress
from serve.tally import Account


async def silence(*_):
    await asyncio.Event().wait()


def handle(**methods):
    """A handle of a deployment, whose calls are coroutines here."""
    calls = {name: SimpleNamespace(remote=method) for name, method in methods.items()}
    return SimpleNamespace(options=lambda **_: None, app_name="s1", deployment_name="engine-base", **calls)


def ingress(facts=silence, context_tokens=100):
    measured = {"engine": "vLLM", "precision": "auto", "versions": {"vllm": "1.0"}}
    options = FrontOptions(context_tokens=context_tokens, measured=measured)
    return Ingress({"base": handle(facts=facts)}, None, options)


async def told():
    return EngineFacts("segments (asked for)", 4096, "bfloat16")


def test_the_version_comes_at_once_and_without_a_driver_that_nobody_knows():
    async def run():
        front = ingress()
        return await front.version()

    assert asyncio.run(run()) == {
        "version": "1.0",
        "engine": "vLLM",
        "precision": "auto",
        "versions": {"vllm": "1.0"},
    }


def test_the_version_has_what_an_engine_says_of_itself_once_it_has_told_it():
    async def run():
        front = ingress(told)
        await asyncio.gather(*front.facts.asking)
        return await front.version()

    version = asyncio.run(run())
    assert (version["driver"], version["precision"]) == ("base: segments (asked for)", "bfloat16")


def test_a_context_that_no_option_bounds_is_the_one_that_the_engine_tells():
    async def card(context_tokens):
        front = ingress(told, context_tokens)
        http = Request({"type": "http", "headers": []})
        before = await front.model(http, "base")
        await asyncio.gather(*front.facts.asking)
        return before.get("max_model_len"), (await front.model(http, "base"))["max_model_len"]

    assert asyncio.run(card(None)) == (None, 4096)
    assert asyncio.run(card(100)) == (100, 100)


def test_metrics_whose_tally_is_silent_are_a_503_that_says_when_to_come_back():
    async def run():
        front = ingress()
        front.account = Account(handle(tell=silence, text=silence), front.metrics, "replica", timeout_s=0.01)
        return await front.prometheus()

    response = asyncio.run(run())
    assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
    assert "tally does not answer" in json.loads(response.body)["error"]["message"]


def test_a_failure_of_the_health_that_nobody_expected_has_the_body_of_every_error():
    def status():
        raise ValueError("odd")

    async def run():
        front = ingress()
        front.health_of = Health({"base": handle()}, status)
        return await front.health()

    response = asyncio.run(run())
    assert response.status_code == 500 and set(json.loads(response.body)["error"]) >= {"message", "type", "code"}


def test_a_client_that_leaves_while_it_sends_is_no_failure_however_serve_tells():
    async def receive():
        raise TaskCancelledError  # what Serve cancels with the request: the call for the rest of the body

    async def run():
        return await ingress().chat(Request({"type": "http", "method": "POST", "headers": []}, receive))

    assert asyncio.run(run()).status_code == 499
