"""How much of a rate limit is used: jobs.distill, a plain asyncio client, Ray Data's HTTP request processor.

    python tests/benchmarks/teacher_throughput.py --questions 1200 --peer-questions 120

All ask the same local server: latency is log-normal with a mean of 2 s, 600 requests a minute are let through (10 a
second, as services enforce it; what is more gets 429 with Retry-After), and 5% of the rest fail: 429, 500, silence.
Prints one JSON object a line. `share` is what was let through over what the limit allows, from the first request to the
moment when every question had been asked once; `refused` are requests beyond the limit, `lost` questions without a good
answer when the system had come to its end. Then it is run again for those, until none is left: `seconds` and
`good_answers_per_minute` are those of the whole work. Ray's processor sends one request at a time for every batch
whatever its rate setting says: it gets batches of one row, four actors, and fewer questions, since it needs so long.
Exit code 1 when ours uses less than 0.95 of the limit, or gives no more good answers a minute than each of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from teacher_server import Reply, TeacherServer, completion, refusal, teaching

PER_MINUTE = 600
MEAN_LATENCY_S = 2.0
SIGMA = 0.6
FAILING = 0.05
HANG_S = 30.0
TIMEOUT_S = 10.0
CONCURRENCY = 64
ATTEMPTS = 6
RAY_ACTORS = 4
MIN_SHARE = 0.95
RAY_RUNS = 3  # of Ray's processor, at most


class LimitedService:
    """The server's script: a token bucket of one second, log-normal latencies, failures."""

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._draw = random.Random(seed)
        self._tokens, self._at = PER_MINUTE / 60, time.monotonic()
        self.first: float | None = None
        self.admitted: list[float] = []
        self.new: float = 0.0  # when a question was asked for the first time, last
        self.last_answer = 0.0
        self.refused = 0
        self.answered: set[str] = set()

    def __call__(self, question: str, count: int) -> Reply:
        with self._lock:
            now = time.monotonic()
            self.first = self.first or now
            self._tokens = min(PER_MINUTE / 60, self._tokens + (now - self._at) * PER_MINUTE / 60)
            self._at = now
            if count == 1:
                self.new = now
            if self._tokens < 1:
                self.refused += 1
                return refusal(429, "rate limit", Retry_After="1")
            self._tokens -= 1
            self.admitted.append(now)
            fate = self._draw.random() / FAILING * 3
            latency = self._draw.lognormvariate(_mu(), SIGMA)
        if fate < 1:
            return refusal(429, "overloaded", Retry_After="1")
        if fate < 2:
            return refusal(500, "internal")
        if fate < 3:
            time.sleep(HANG_S)
            return Reply(drop=True)
        time.sleep(latency)
        with self._lock:
            self.answered.add(question)
            self.last_answer = time.monotonic()
        return completion("hm " * 50, "7", tokens=100)

    def result(self, system: str, num_questions: int, lost: list[int], server: TeacherServer) -> dict[str, Any]:
        assert self.first is not None
        busy, whole = max(self.new - self.first, 1e-9), max(self.last_answer - self.first, 1e-9)
        sustained = sum(at <= self.new for at in self.admitted)
        allowed = PER_MINUTE / 60
        return {
            "system": system,
            "questions": num_questions,
            "seconds": round(whole, 1),
            "share": round(sustained / (busy * allowed), 3),
            "good_answers_per_minute": round(60 * len(self.answered) / whole, 1),
            "most_under_way": server.most_under_way,
            "refused": self.refused,
            "lost": lost[0],
            "runs": len(lost),
            "paid_twice": sum(max(0, count - 1) for count in server.paid.values()),
        }


def _mu() -> float:
    import math

    return math.log(MEAN_LATENCY_S) - SIGMA**2 / 2


def ours(num_questions: int, seed: int) -> dict[str, Any]:
    """`python -m jobs.distill` in a process of its own."""
    service = LimitedService(seed)
    with teaching(service) as server, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.jsonl"
        path.write_text("\n".join(json.dumps({"question": f"What is {n}?"}) for n in range(num_questions)))
        run = ["--run-dir", f"{folder}/run"]
        collect = ["--source", "files", "--path", str(path), "--num-test", "0"]
        subprocess.run([sys.executable, "-m", "jobs.collect", *run, *collect], check=True)
        flags = {
            "teacher": "openai",
            "openai.model": "m",
            "openai.base-url": server.base_url,
            "openai.timeout-s": TIMEOUT_S,
            "openai.limits.requests-per-minute": PER_MINUTE,
            "openai.retry.attempts": ATTEMPTS,
            "pool.concurrency": 2 * CONCURRENCY,
            "pool.num-cpus": 0.1,
            "max-lost": 1.0,
        }
        arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        lost: list[int] = []
        while not lost or lost[-1]:
            again = ["--force"] if lost else []
            subprocess.run([sys.executable, "-m", "jobs.distill", *run, *arguments, *again], check=True)
            manifest = json.loads((Path(folder) / "run" / "traces" / "_manifest.json").read_text())
            lost.append(num_questions - manifest["rows_out"])
        return service.result("jobs.distill", num_questions, lost, server)


def plain(num_questions: int, seed: int) -> dict[str, Any]:
    """The client that everybody writes: a semaphore, doubled pauses."""
    service = LimitedService(seed)

    async def ask(client: httpx.AsyncClient, gate: asyncio.Semaphore, url: str, number: int) -> bool:
        body = {"model": "m", "messages": [{"role": "user", "content": f"What is {number}?"}]}
        async with gate:
            for attempt in range(ATTEMPTS):
                try:
                    response = await client.post(url, json=body)
                    if response.status_code == 200:
                        return True
                except httpx.TransportError:
                    pass
                await asyncio.sleep(2.0**attempt)
        return False

    async def everything(url: str, numbers: list[int]) -> list[bool]:
        gate = asyncio.Semaphore(CONCURRENCY)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(ask(client, gate, url, number) for number in numbers))

    with teaching(service) as server:
        left, lost = list(range(num_questions)), list[int]()
        while left:
            good = asyncio.run(everything(f"{server.base_url}/chat/completions", left))
            left = [number for number, is_good in zip(left, good, strict=True) if not is_good]
            lost.append(len(left))
        return service.result("asyncio + semaphore", num_questions, lost, server)


def ray_processor(num_questions: int, seed: int) -> dict[str, Any]:
    """Ray Data's HTTP request processor. One 429 too many ends it without anything: then all is asked again."""
    service = LimitedService(seed)
    with teaching(service) as server:
        lost: list[int] = []
        left = list(range(num_questions))
        while left and len(lost) < RAY_RUNS:
            command = [sys.executable, __file__, "--as-ray-processor", server.base_url]
            done = subprocess.run(command, input=json.dumps(left), stdout=subprocess.PIPE, text=True)
            good = set(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else set[int]()
            left = [number for number in left if number not in good]
            lost.append(len(left))
        return service.result("ray.data.llm HttpRequestProcessor", num_questions, lost, server)


def as_ray_processor(base_url: str, numbers: list[int]) -> None:
    """The body of `ray_processor`, in a process of its own; prints the questions that got a good answer."""
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    processor = build_processor(
        HttpRequestProcessorConfig(
            url=f"{base_url}/chat/completions",
            concurrency=(RAY_ACTORS, RAY_ACTORS),
            batch_size=1,
            qps=PER_MINUTE // 60,
            max_retries=ATTEMPTS,
            http_request_stage={"num_cpus": 0.1},
        ),
        preprocess=lambda row: {
            "number": row["id"],
            "payload": {"model": "m", "messages": [{"role": "user", "content": f"What is {row['id']}?"}]},
        },
        postprocess=lambda row: {"number": row["number"], "good": "choices" in row["http_response"]},
    )
    rows = ray.data.from_items([{"id": number} for number in numbers], override_num_blocks=len(numbers))
    print(json.dumps([row["number"] for row in processor(rows).take_all() if row["good"]]))


def missed(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is not as it must be, a line each; only what was measured counts."""
    if "ours" not in results:
        return []
    ours, found = results["ours"], list[str]()
    if ours["share"] < MIN_SHARE:
        found.append(f"{ours['share']} of the limit used, at least {MIN_SHARE}")
    rate = ours["good_answers_per_minute"]
    for name, other in results.items():
        if name != "ours" and rate <= other["good_answers_per_minute"]:
            found.append(f"{rate} good answers a minute, {other['system']} gives {other['good_answers_per_minute']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1200)
    parser.add_argument("--peer-questions", type=int, default=120, help="for Ray's processor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--systems", nargs="*", choices=["ours", "plain", "ray"], default=["ours", "plain", "ray"])
    parser.add_argument("--as-ray-processor", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_ray_processor:
        as_ray_processor(arguments.as_ray_processor, json.load(sys.stdin))
        return
    results: dict[str, dict[str, Any]] = {}
    for name, run in {"ours": ours, "plain": plain, "ray": ray_processor}.items():
        if name in arguments.systems:
            count = arguments.peer_questions if name == "ray" else arguments.questions
            results[name] = run(count, arguments.seed)
            print(json.dumps(results[name]), flush=True)
    if "ours" in results:
        rate = results["ours"]["good_answers_per_minute"]
        rates = {name: found["good_answers_per_minute"] for name, found in results.items()}
        ratios = {name: round(rate / other, 2) if other else None for name, other in rates.items()}
        print(json.dumps({"good answers a minute, ours over": ratios}))
    for line in (found := missed(results)):
        print(f"missed: {line}", file=sys.stderr)
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
