"""Tokens a second and time to the first token through HTTP, ours against `vllm serve` of the same model.

    python tests/benchmarks/http_speed.py
    python tests/benchmarks/http_speed.py --concurrency 8 32 --rounds 2 --forced

Both servers stand on this machine at the same time, with the same weights, type, threads and limits, and are loaded in
turn, --rounds times, with the same prompts for the same numbers of streamed tokens by the same client: what else the
machine does meets both; on a GPU both get the same share of its memory. --forced makes ours end the thinking at half of
the tokens and write an answer. Prints a JSON object for each server, concurrency and round (with the CPU time of its
processes for each token), and the ratios last.

Exit code 1 when a bound is missed, which is said on stderr: at the highest concurrency at least 0.95 of the tokens a
second of `vllm serve` (median of the rounds), at the lowest at most 15 ms added to the median time to the first token.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import psutil

MODEL = "embedded:smollm2-135m-instruct"
CONTEXT = 1024
SEQUENCES = 64
KV_CACHE_GIB = 0.5
GPU_SHARE = 0.4  # of its memory, for either server
MIN_SPEED_RATIO, MAX_ADDED_FIRST_TOKEN_MS = 0.95, 15
START_S = 300
Row = dict[str, Any]


def main() -> None:
    """Measure both, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="reference of s1.models")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32], help="streams at a time")
    parser.add_argument("--requests", type=int, default=96, help="requests at the highest concurrency")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of every completion")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forced", action="store_true", help="ours: a forced end at half of the tokens")
    options = parser.parse_args()

    from s1 import models

    folder = models.resolve(options.model)
    rows: list[Row] = []
    os.environ.update(RAY_worker_niceness="0")  # as the peer, where others want the processors too
    with peer(folder, options) as (peer_url, process), ours(folder, options) as our_url:
        urls = {"ours": our_url, "peer": peer_url}
        rows = asyncio.run(measure(urls, process.pid, options))
    ratios = [compared(rows, concurrency) for concurrency in options.concurrency]
    for row in ratios:
        print(json.dumps(row), flush=True)
    told = missed(ratios)
    for text in told:
        print(f"missed: {text}", file=sys.stderr)
    raise SystemExit(1 if told else 0)


def missed(ratios: Sequence[Row]) -> list[str]:
    """Bounds that the results of `compared` miss."""
    lowest, highest = (choose(ratios, key=lambda row: row["concurrency"]) for choose in (min, max))
    speed, added = highest["tokens_per_s_ratio"], lowest["added_first_token_ms"]
    found: list[str] = []
    if speed < MIN_SPEED_RATIO:
        least = MIN_SPEED_RATIO
        found.append(f"{highest['concurrency']} streams: {speed} of vllm serve's tokens/s (median), at least {least}")
    if added > MAX_ADDED_FIRST_TOKEN_MS:
        most = MAX_ADDED_FIRST_TOKEN_MS
        found.append(f"{lowest['concurrency']} streams: first token {added} ms later (median), at most {most}")
    return found


def application(folder: Path, device: str) -> dict[str, Any]:
    """Options of serve.app for the model in `folder`."""
    cpu = device == "cpu"
    engine = {
        "device": device,
        "max_model_len": CONTEXT,
        "max_num_seqs": SEQUENCES,
        "kv_cache_gib": KV_CACHE_GIB if cpu else None,
        "gpu_memory_utilization": GPU_SHARE,
        "enforce_eager": cpu,
    }
    return {"models": {"m": str(folder)}, "max_ongoing_requests": SEQUENCES, "sampler_replicas": 0, "engine": engine}


def peer_command(folder: Path, device: str, number_type: str, port: int) -> list[str]:
    """The same for `vllm serve`."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", str(SEQUENCES), "--enable-prefix-caching"]
    command += ["--generation-config", "vllm", "--dtype", number_type]
    if device == "cpu":
        return [*command, "--enforce-eager", "--kv-cache-memory-bytes", str(int(KV_CACHE_GIB * 2**30))]
    return [*command, "--gpu-memory-utilization", str(GPU_SHARE)]


@contextlib.contextmanager
def ours(folder: Path, options: argparse.Namespace) -> Generator[str]:
    """The application of serve.app."""
    os.environ.setdefault("RAY_SERVE_PROXY_USE_GRPC", "1")  # as docs/serving.md says for `ray start`
    from jobs.ray_session import ray_session
    from serve.app import deployed
    from serve.options import AppOptions

    served = AppOptions.model_validate(application(folder, options.device))
    with ray_session(), deployed(served.models, served, timeout_s=START_S) as url:
        yield url


@contextlib.contextmanager
def peer(folder: Path, options: argparse.Namespace) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """`vllm serve`, with the environment that our own replicas get, and its process."""
    from serve.engine_options import EngineOptions

    port = free_port()
    own = EngineOptions.model_validate({"device": options.device})
    command = peer_command(folder, options.device, own.number_type, port)
    process = subprocess.Popen(
        command, env={**os.environ, **own.environment()}, stdout=sys.stderr, stderr=sys.stderr, start_new_session=True
    )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the server listens. RuntimeError when it ends instead."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("vllm serve did not start; what it said stands above")
        time.sleep(0.2)


async def measure(urls: dict[str, str], peer_pid: int, options: argparse.Namespace) -> list[Row]:
    """One row for each server, concurrency and round."""
    import aiohttp

    rows: list[Row] = []
    limit = max(options.concurrency)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for name, url in urls.items():
            await load(session, url, name, options, limit, limit)  # warm
        for number in range(options.rounds):
            for concurrency in options.concurrency:
                total = max(8, options.requests * concurrency // limit)
                for name in list(urls)[:: 1 if number % 2 == 0 else -1]:
                    before = cpu_seconds(peer_pid)[name]
                    row = {"server": name, "concurrency": concurrency, "round": number}
                    row |= await load(session, urls[name], name, options, concurrency, total)
                    used = cpu_seconds(peer_pid)[name] - before
                    rows.append({**row, "cpu_ms_a_token": round(1000 * used / row["tokens"], 3)})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def cpu_seconds(peer_pid: int) -> dict[str, float]:
    """CPU time of the processes of either server so far."""
    peers = {peer_pid, *(process.pid for process in psutil.Process(peer_pid).children(recursive=True))}
    used = {"ours": 0.0, "peer": 0.0}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used["peer" if process.pid in peers else "ours"] += times.user + times.system
    return used


async def load(
    session: Any, url: str, name: str, options: argparse.Namespace, concurrency: int, total: int
) -> dict[str, float]:
    """`total` streams, `concurrency` at a time."""
    numbers = iter(range(total))
    first: list[float] = []
    tokens: list[int] = []

    async def client() -> None:
        for number in numbers:
            seconds, count = await one(session, url, body(name, options, number))
            first.append(seconds)
            tokens.append(count)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    took = time.perf_counter() - started
    return {
        "tokens_per_s": round(sum(tokens) / took, 1),
        "tokens": sum(tokens),
        "first_token_ms": round(1000 * statistics.median(first), 1),
    }


def body(name: str, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """A prompt of its own for every request, so that no cache knows it, and exactly `--tokens` tokens."""
    question = f"Tell the story of the {number}th king, who lost {number * 7 + 3} horses, and of his daughter."
    message = {"role": "user", "content": question}
    common = {"model": "m", "messages": [message], "max_tokens": options.tokens, "temperature": 1.0, "seed": number}
    common |= {"stream": True, "stream_options": {"include_usage": True}}
    if name == "peer":
        return {**common, "ignore_eos": True}
    thinking = options.tokens // 2 if options.forced else options.tokens
    forcing = {"min_tokens": thinking} | ({"max_tokens": thinking} if options.forced else {})
    return {**common, "budget_forcing": forcing}


async def one(session: Any, url: str, request: dict[str, Any]) -> tuple[float, int]:
    """Seconds until the first text, and tokens of the completion."""
    started, first, tokens = time.perf_counter(), 0.0, 0
    async with session.post(f"{url}/chat/completions", json=request) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            if not first and chunk["choices"] and has_text(chunk["choices"][0]["delta"]):
                first = time.perf_counter() - started
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
    return first, tokens


def has_text(delta: dict[str, Any]) -> bool:
    return bool(delta.get("content") or delta.get("reasoning"))


def compared(rows: Sequence[Row], concurrency: int) -> Row:
    """Ratio of the tokens a second and difference of the medians: the median of the rounds."""

    def values(server: str, key: str) -> list[float]:
        chosen = (row for row in rows if (row["server"], row["concurrency"]) == (server, concurrency))
        return [row[key] for row in sorted(chosen, key=lambda row: row["round"])]

    def pairs(key: str) -> list[tuple[float, float]]:
        return list(zip(values("ours", key), values("peer", key), strict=True))

    return {
        "concurrency": concurrency,
        "tokens_per_s_ratio": round(statistics.median(a / b for a, b in pairs("tokens_per_s")), 3),
        "added_first_token_ms": round(statistics.median(a - b for a, b in pairs("first_token_ms")), 1),
        "cpu_ratio": round(statistics.median(a / b for a, b in pairs("cpu_ms_a_token")), 3),
    }


if __name__ == "__main__":
    main()
