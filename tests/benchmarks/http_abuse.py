"""What clients can do to the service: too many at once, malformed requests, and a replica that is killed.

    python tests/benchmarks/http_abuse.py                                  # all three, on the embedded model
    python tests/benchmarks/http_abuse.py --parts flood --clients 300 --queue 64
    python tests/benchmarks/http_abuse.py --parts malformed --requests 10000
    python tests/benchmarks/http_abuse.py --parts kill

flood: so many clients at the same moment; everyone has to get an answer, or 429 with Retry-After; repeated, with the
memory of all processes after each time. malformed: bodies made by hand (half of them), by schemathesis for our OpenAPI
and by Hypothesis from the schema of the request; none may be answered with 5xx, no replica may die. kill: two replicas
with streams on both, one is killed; its clients have to get an error event, the others go on, and two replicas stand
again by themselves. Prints a JSON object for each part. Exit code 1 when something of this does not hold, which is said
on stderr; 2 when schemathesis is asked for and missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from malformed_requests import cases, request

MODEL = "embedded:smollm2-135m-instruct"
ANSWERED_S = 600.0
Row = dict[str, Any]


def main() -> None:
    """Deploy what a part needs, abuse it, say what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"flood": flood, "malformed": malformed, "kill": kill}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--model", default=MODEL, help="reference of s1.models")
    parser.add_argument("--clients", type=int, default=300, help="flood: clients at the same moment")
    parser.add_argument("--queue", type=int, default=64, help="flood: places to wait")
    parser.add_argument("--times", type=int, default=4, help="flood: repetitions")
    parser.add_argument("--requests", type=int, default=10_000, help="malformed: requests")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "malformed" in options.parts and importlib.util.find_spec("schemathesis") is None:
        fix = "`make bench/http_abuse` installs it, `--parts flood kill` does without"
        print(f"error: the part malformed needs schemathesis, which is not installed; {fix}", file=sys.stderr)
        raise SystemExit(2)

    from jobs.ray_session import ray_session

    missed: list[str] = []
    with ray_session():
        for groups in ([name for name in options.parts if name != "kill"], [n for n in options.parts if n == "kill"]):
            if not groups:
                continue
            with deployment(options, num_replicas=2 if groups == ["kill"] else 1) as url:
                for name in groups:
                    row = asyncio.run(parts[name](url, options))
                    print(json.dumps({"part": name, **row}), flush=True)
                    missed += [] if row["holds"] else [f"{name}: {json.dumps(row)}"]
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    raise SystemExit(1 if missed else 0)


@contextlib.contextmanager
def deployment(options: argparse.Namespace, num_replicas: int) -> Iterator[str]:
    from serve.app import deployed
    from serve.options import AppOptions

    application = AppOptions.model_validate(
        {
            "models": {"base": options.model},
            "num_replicas": num_replicas,
            "num_cpus": 0.4,
            "max_ongoing_requests": 32,
            "max_queued_requests": options.queue,
            "drain_timeout_s": 10,
            "engine": {"max_model_len": 512, "max_num_seqs": 32},
        }
    )
    with deployed(application.models, application, timeout_s=400) as url:
        yield url


def session() -> Any:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=ANSWERED_S)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


# Too many at once.


async def flood(url: str, options: argparse.Namespace) -> Row:
    """Everyone is answered or told when to come back; the memory does not grow with the repetitions."""
    codes: Counter[int] = Counter()
    without_hint, memory, seconds = 0, [], []
    async with session() as client:
        for _ in range(options.times):
            started = time.monotonic()
            answers = await asyncio.gather(*(ask(client, url) for _ in range(options.clients)))
            seconds.append(round(time.monotonic() - started, 1))
            codes.update(status for status, _ in answers)
            without_hint += sum(status == 429 and not hint for status, hint in answers)
            memory.append(round(memory_gib(), 3))
    return {
        "statuses": dict(codes),
        "429_without_retry_after": without_hint,
        "seconds": seconds,
        "memory_gib": memory,
        "holds": set(codes) <= {200, 429} and not without_hint and codes[200] > 0 and memory[-1] < memory[0] * 1.05,
    }


async def ask(client: Any, url: str) -> tuple[int, bool]:
    """Status of one request, and whether it says when to come back."""
    forcing = {"max_tokens": 16, "min_tokens": 16}
    async with client.post(f"{url}/chat/completions", json=request(budget_forcing=forcing)) as response:
        await response.read()
        return response.status, int(response.headers.get("Retry-After", "0")) > 0


def memory_gib() -> float:
    """Of this process's descendants: Serve's processes and the engines. Pages that several share count once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total / 2**30


# Malformed requests.


async def malformed(url: str, options: argparse.Namespace) -> Row:
    """No status of 5xx, and the same processes before and after."""
    before = engines()
    codes: Counter[int] = Counter()
    bad: list[str] = []
    sent = cases(options.seed, options.requests)
    async with session() as client:

        async def worker() -> None:
            for method, path, kwargs in sent:
                async with client.request(method, url.removesuffix("/v1") + path, **kwargs) as response:
                    text = await response.text()
                    codes[response.status] += 1
                    if response.status >= 500 or (response.status >= 400 and "error" not in text):
                        bad.append(f"{response.status} {method} {path} {str(kwargs)[:300]} -> {text[:200]}")

        started = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(16)))
        seconds = time.monotonic() - started
        alive = (await ask(client, url))[0]
    for line in bad[:5]:
        print(line, file=sys.stderr)
    return {
        "requests": sum(codes.values()),
        "statuses": dict(sorted(codes.items())),
        "seconds": round(seconds, 1),
        "replicas_died": before != engines(),
        "holds": not bad and alive == 200 and before == engines(),
    }


def engines() -> set[int]:
    """Processes of the replicas and their engines."""
    names = ("EngineCore", "ServeReplica")
    found = set[int]()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(name in " ".join([process.name(), *process.cmdline()]) for name in names):
                found.add(process.pid)
    return found


# A replica is killed.


async def kill(url: str, options: argparse.Namespace) -> Row:
    """Streams on two replicas; one replica is killed once all streams have begun."""
    async with session() as client:
        begun = [asyncio.Event() for _ in range(8)]
        streams = [asyncio.create_task(follow(client, url, event)) for event in begun]
        await asyncio.gather(*(event.wait() for event in begun))
        victim = next(p for p in psutil.Process().children(recursive=True) if "EngineCore" in p.name())
        victim.parent().kill()
        killed = time.monotonic()
        ends = await asyncio.gather(*streams)
        lost = [(at - killed, error) for at, error in ends if error is not None]
        whole = await whole_again(client, url, victim.pid)
    return {
        "streams": len(ends),
        "lost": len(lost),
        "told_after_s": round(max((seconds for seconds, _ in lost), default=0), 2),
        "told": sorted({str(error) for _, error in lost}),
        "whole_again_after_s": round(whole - killed, 1),
        "holds": 0 < len(lost) < len(ends)
        and all(seconds < 5 and error and error["code"] == 503 for seconds, error in lost),
    }


async def follow(client: Any, url: str, begun: asyncio.Event) -> tuple[float, Row | None]:
    """When a stream ended, and its error event if it got one. A stream that breaks off counts as {}."""
    body = request(stream=True, max_tokens=300, budget_forcing={"min_tokens": 300}, temperature=1)
    last: Row | None = {}
    async with client.post(f"{url}/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                last = None
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                last = chunk.get("error", last)
                if "budget_forcing" in chunk:
                    begun.set()
    return time.monotonic(), last


async def whole_again(client: Any, url: str, victim: int) -> float:
    """When Serve runs two replicas, neither of them with the engine `victim`, and a request is answered."""
    from ray import serve

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        (application,) = serve.status().applications.values()
        states = application.deployments["engine-base"].replica_states
        cores = [p.pid for p in psutil.Process().children(recursive=True) if "EngineCore" in p.name()]
        if states == {"RUNNING": 2} and len(cores) == 2 and victim not in cores and (await ask(client, url))[0] == 200:
            return time.monotonic()
    raise TimeoutError("the service was not whole again after 300 s")


if __name__ == "__main__":
    main()
