"""CPU time that a streamed token takes on its way to the client, with an engine that costs nothing.

    python tests/benchmarks/http_cost.py                    # as it is deployed
    python tests/benchmarks/http_cost.py --every-token      # without joining the text of many streams
    python tests/benchmarks/http_cost.py --every-token --object-store     # and by way of Ray's object store

Real Ray Serve, the real ingress and the real pacing; the engine gives a word every --step-ms. Prints microseconds of
CPU time a token in each kind of process, and the median time to the first text, of which the engine takes 1 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import http_speed
import psutil

from serve.events import Accepted, Added, Event, Finished, Generation, Report, Segment
from serve.ingress import FrontOptions, Ingress, api

STREAMS = 32


def main() -> None:
    """Deploy, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="of every stream")
    parser.add_argument("--step-ms", type=float, default=60, help="from token to token")
    parser.add_argument("--every-token", action="store_true", help="send every token by itself")
    parser.add_argument("--object-store", action="store_true", help="Serve's default transport, in place of gRPC")
    options = parser.parse_args()
    options.forced = False
    os.environ["RAY_SERVE_PROXY_USE_GRPC"] = str(int(not options.object_store))
    from jobs.ray_session import ray_session

    with ray_session():
        print(json.dumps(asyncio.run(measure(deploy(options), options))), flush=True)


def deploy(options: argparse.Namespace) -> str:
    """The URL of the ingress in front of an idle engine."""
    from ray import serve

    port = http_speed.free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    deployment: Any = serve.deployment
    kept = {"max_ongoing_requests": 4 * STREAMS, "ray_actor_options": {"num_cpus": 0.1}}
    engine = deployment(IdleEngine).options(name="engine", **kept).bind(options.step_ms / 1000, options.every_token)
    front = deployment(serve.ingress(api)(MeasuredIngress)).options(name="ingress", **kept)
    serve.run(front.bind({"m": engine}, options.object_store))
    return f"http://127.0.0.1:{port}/v1"


class IdleEngine:
    """Answers like a forced engine, with words that nobody thought of."""

    def __init__(self, step_s: float, every_token: bool) -> None:
        self.step_s, self.every_token, self.streams = step_s, every_token, 0

    async def stream(self, request: Generation) -> AsyncGenerator[Event, None]:
        from serve.pace import paced

        self.streams += 1
        events = self.events(request)
        async for event in events if self.every_token else paced(events, lambda: min(0.25, self.streams * 0.004)):
            yield event
        self.streams -= 1

    async def events(self, request: Generation) -> AsyncGenerator[Event, None]:
        yield Accepted(10)
        count = request.max_tokens or 0
        for number in range(count):
            await asyncio.sleep(self.step_s if number else 0.001)
            yield Added(0, " word", "", (Segment(" word", False, "thinking"),), number + 1, 0, 0)
        yield Finished(0, Report(count, 0, 0, count, 0, None, "length", None, "length"))


class MeasuredIngress(Ingress):
    """The ingress, with the choice of the transport."""

    def __init__(self, engines: dict[str, Any], object_store: bool) -> None:
        super().__init__(engines, None, FrontOptions(context_tokens=2048))
        if object_store:
            self.engines = {name: engine.options(stream=True) for name, engine in engines.items()}


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Load it with 32 streams, then with one after the other."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await http_speed.load(session, url, "ours", options, STREAMS, STREAMS)
        before = cpu_seconds()
        busy = await http_speed.load(session, url, "ours", options, STREAMS, 2 * STREAMS)
        used = cpu_seconds()
        used.subtract(before)
        options.tokens = 2
        alone = await http_speed.load(session, url, "ours", options, 1, 40)
    micros = {name: round(seconds / busy["tokens"] * 1e6) for name, seconds in used.items()}
    times = {"first_text_ms": {"alone": alone["first_token_ms"], f"{STREAMS} streams": busy["first_token_ms"]}}
    return {"every_token": options.every_token, "object_store": options.object_store, "us_a_token": micros, **times} | {
        "us_a_token_in_all": sum(micros.values())
    }


def cpu_seconds() -> Counter[str]:
    """Of the processes that Ray and Serve run, by kind."""
    kinds = {"IdleEngine": "engine", ":engine": "engine", ":ingress": "ingress", "Proxy": "proxy"}
    used: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        try:
            command, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        kind = next((kind for part, kind in kinds.items() if part in command), "rest of Ray")
        used[kind] += times.user + times.system  # pyright: ignore[reportArgumentType]
    return used


if __name__ == "__main__":
    main()
