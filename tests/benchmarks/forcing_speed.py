"""Tokens per second of budget forcing beside plain vLLM, for the same numbers of tokens.

    python tests/benchmarks/forcing_speed.py
    python tests/benchmarks/forcing_speed.py --requests 32 --cases rounds
    python tests/benchmarks/forcing_speed.py --model Qwen/Qwen3-0.6B --engine '{"device": "gpu", "style": "think-tags"}'

Cases: `cap` ends the thinking at its budget; `wait` ignores one end of the model's own, and the next one counts;
`rounds` is `wait` with lengths as different as those of a thinking model, on three times as many requests as are worked
on at a time, beside the reference's way: batch after batch, in rounds that wait for the longest of the batch and read
all that stands before a segment again, as vLLM did when the reference was written (its V1 turned the prefix cache on);
only at the largest of --requests. The same rounds with a prefix cache are in the table as well. What their waiting
costs depends on how much faster the device is with many requests than with few: plain vLLM, which forces nothing, shows
how much can be gained at all.

So that a model that was never trained to think ends its thinking at a known place, a token that its greedy completion
has there takes the part of the delimiter. There are two engines of the same model: plain generation, segments and
rounds run on one without a logits processor, in-engine on one with it. Prompts are in the prefix cache for all ways but
`rounds`. The ways take turns; a ratio is that of one turn, and comes with its median and range. The CPU time for a
token, of this process and the engines', is compared too: it does not depend on what else the machine has to do.

Exit code 1 when the median of a ratio of tokens per second misses its bound, which is said on stderr: in-engine at
least 0.97 of plain vLLM, segments with a Wait at least 0.90, either at least 1.5 times the rounds at 32 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil

from s1 import models
from s1.forcing import BudgetPolicy, Program, compile_policy, segments
from s1.template import Template
from serve.engine import Sampling, VllmEngine
from serve.engine_options import Driver, EngineOptions

DRIVERS: tuple[Driver, ...] = ("in-engine", "segments")
GREEDY = Sampling(temperature=0)
TOPICS = ["rivers", "prime numbers", "bread", "the moon", "glass", "chess", "bees", "steam engines"]
BATCHES = 3  # of the case `rounds`
# Standard deviation of the logarithm of the length of s1.1-32B's thinking, on 400 questions of Global-MMLU with a cap
# of 8,000 tokens, six times the median (BatsResearch, crosslingual-test-time-scaling).
LENGTHS_SIGMA = 0.72
ROUNDS_REQUESTS = 32  # from here on waiting for the longest has to cost as much as MIN_RATIOS says

# By case, of the tokens per second: way / peer -> at least
MIN_RATIOS = {
    "cap": {"in-engine / plain": 0.97},
    "wait": {"in-engine / plain": 0.97, "segments / plain": 0.90},
    "rounds": {"in-engine / rounds": 1.5, "segments / rounds": 1.5},
}


@dataclass(frozen=True)
class Work:
    """One request: its prompt, what is asked of it, and how many tokens that makes."""

    prompt: list[int]
    program: Program
    num_tokens: int


@dataclass(frozen=True)
class Lengths:
    thinking: int
    answer: int


class Bench:
    """An engine for each driver, and what is run on them."""

    def __init__(self, engines: dict[Driver, VllmEngine], template: Template, lengths: Lengths) -> None:
        self.engines, self.template, self.lengths = engines, template, lengths
        self.engine = engines["segments"]  # plain vLLM

    def prompt(self, index: int) -> list[int]:
        return self.template.render_prompt(f"{index}. Tell me about {TOPICS[index % len(TOPICS)]}, and why it matters.")

    def program(self, prompt: list[int], policy: BudgetPolicy) -> Program:
        context = self.engine.context_tokens
        program = compile_policy(policy, self.template, prompt_tokens=len(prompt), context_tokens=context)
        return replace(program, stop_ids=frozenset())  # as in plain generation: answers have their full length

    async def capped(self, index: int) -> Work:
        thinking, answer = self.lengths.thinking, self.lengths.answer
        policy = BudgetPolicy(thinking, min_thinking_tokens=thinking, max_answer_tokens=answer)
        return await self._work(index, policy)

    async def waiting(self, index: int, end_at: int, cap: int) -> Work:
        """An end at about `end_at` tokens is ignored; the next one, or `cap`, counts."""
        said = [id async for ids in self._plain(self.prompt(index), 2 * end_at) for id in ids]
        new = [at for at, id in enumerate(said) if id not in said[:at]]  # a delimiter comes for the first time there
        delimiter = said[min(new, key=lambda at: abs(at - end_at))]
        policy = BudgetPolicy(cap, num_ignore=1, max_answer_tokens=self.lengths.answer)
        return await self._work(index, policy, delimiter)

    async def _work(self, index: int, policy: BudgetPolicy, delimiter: int | None = None) -> Work:
        prompt = self.prompt(index)
        program = self.program(prompt, policy)
        if delimiter is not None:
            program = replace(program, delimiter=(delimiter,))
        work = Work(prompt, program, 0)
        num_tokens = await self.forced(work, "segments")
        # The other engine's prefix cache knows the prompt as well then.
        async for _ in self._plain(prompt, 1, self.engines["in-engine"]):
            pass
        return replace(work, num_tokens=num_tokens)

    async def plain(self, work: Work) -> int:
        return sum([len(ids) async for ids in self._plain(work.prompt, work.num_tokens)])

    async def _plain(
        self, prompt: list[int], num: int, engine: VllmEngine | None = None
    ) -> AsyncGenerator[Sequence[int], None]:
        outputs = (engine or self.engine).generate(prompt, GREEDY, seed=None, max_tokens=num, stop_ids=frozenset())
        async with aclosing(outputs):
            async for output in outputs:
                yield output.outputs[0].token_ids

    async def forced(self, work: Work, driver: Driver) -> int:
        position = 0
        async with aclosing(self.engines[driver].run(work.program, work.prompt, GREEDY)) as steps:
            async for step in steps:
                position = step.state.position
        return position

    async def in_rounds(self, batch: Sequence[Work], *, cached: bool) -> int:
        """The reference's way: a segment of every request, wait for all, append, the next segment of every request.

        Unless `cached`, every segment reads all that stands before it again.
        """
        rounds = Rounds(len(batch))

        async def generate(
            prompt: Sequence[int], *, max_tokens: int, stop_ids: frozenset[int], segment: int
        ) -> AsyncGenerator[Sequence[int], None]:
            await rounds.next()
            owner = "" if cached else uuid.uuid4().hex  # nobody's prefixes but its own
            outputs = self.engine.generate(
                prompt, GREEDY, seed=None, max_tokens=max_tokens, stop_ids=stop_ids, owner=owner
            )
            async with aclosing(outputs):
                async for output in outputs:
                    yield output.outputs[0].token_ids

        async def one(work: Work) -> int:
            steps = [step async for step in segments.run(work.program, work.prompt, generate)]
            rounds.leave()
            return steps[-1].state.position

        return sum(await asyncio.gather(*map(one, batch)))


class Rounds:
    """Lets a number of requests go on when all of them are waiting."""

    def __init__(self, num: int) -> None:
        self._num, self._waiting = num, list[asyncio.Future[None]]()

    async def next(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._go()
        await turn

    def leave(self) -> None:
        self._num -= 1
        self._go()

    def _go(self) -> None:
        if len(self._waiting) == self._num:
            for turn in self._waiting:
                turn.set_result(None)
            self._waiting.clear()


Way = Callable[[], Awaitable[int]]


def at_a_time(num: int, work: Sequence[Work], do: Callable[[Work], Awaitable[int]]) -> Way:
    """All of `work`, `num` requests at a time, a new one as soon as one is done."""

    async def run() -> int:
        places = asyncio.Semaphore(num)

        async def one(item: Work) -> int:
            async with places:
                return await do(item)

        return sum(await asyncio.gather(*map(one, work)))

    return run


@dataclass(frozen=True)
class Speed:
    """Of one way in one turn."""

    tokens_per_s: float
    cpu_ms_a_token: float


def cpu_seconds() -> float:
    """CPU time that this process and the engines have taken so far."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


async def compare(ways: dict[str, Way], turns: int) -> dict[str, list[Speed]]:
    """Speeds of every way in every turn; each turn begins with another way."""
    speeds: dict[str, list[Speed]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started, before = time.monotonic(), cpu_seconds()
            tokens = await ways[name]()
            took, used = time.monotonic() - started, cpu_seconds() - before
            speeds[name].append(Speed(tokens / took, 1000 * used / tokens))
    return speeds


Line = dict[str, Any]


def report(case: str, requests: int, work: Sequence[Work], speeds: dict[str, list[Speed]], peer: str) -> Line:
    def ratios(of: Callable[[Speed], float]) -> dict[str, dict[str, float]]:
        return {
            f"{name} / {peer}": spread([of(one) / of(base) for one, base in zip(values, speeds[peer], strict=True)])
            for name, values in speeds.items()
            if name != peer
        }

    tokens = [one.num_tokens for one in work]
    line = {
        "case": case,
        "requests": requests,
        "tokens_each": {"mean": round(statistics.mean(tokens)), "min": min(tokens), "max": max(tokens)},
        "tokens_per_s": {
            name: round(statistics.median(speed.tokens_per_s for speed in values), 1) for name, values in speeds.items()
        },
        "ratios": ratios(lambda speed: speed.tokens_per_s),
        "cpu_time_ratios": ratios(lambda speed: speed.cpu_ms_a_token),
    }
    print(json.dumps(line), flush=True)
    return line


def missed(line: Line) -> list[str]:
    """Bounds that the medians of a report miss."""
    case, requests, ratios = line["case"], line["requests"], line["ratios"]
    bounds = MIN_RATIOS[case] if case != "rounds" or requests >= ROUNDS_REQUESTS else {}
    return [
        f"{case}, {requests} requests: {name} {ratios[name]['median']} of the tokens/s (median), at least {least}"
        for name, least in bounds.items()
        if ratios[name]["median"] < least
    ]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


async def measure(bench: Bench, cases: Sequence[str], requests: int, turns: int) -> list[Line]:
    """A report of every case."""

    async def ways(work: Sequence[Work]) -> dict[str, Way]:
        drivers = {
            driver: at_a_time(requests, work, lambda item, driver=driver: bench.forced(item, driver))
            for driver in DRIVERS
        }
        return {"plain": at_a_time(requests, work, bench.plain), **drivers}

    longest, lines = bench.lengths.thinking, list[Line]()
    if "cap" in cases:
        work = await asyncio.gather(*map(bench.capped, range(requests)))
        lines.append(report("cap", requests, work, await compare(await ways(work), turns), "plain"))
    if "wait" in cases:
        work = await asyncio.gather(*(bench.waiting(index, longest // 2, longest) for index in range(requests)))
        lines.append(report("wait", requests, work, await compare(await ways(work), turns), "plain"))
    if "rounds" in cases:
        rng = random.Random(0)
        caps = [
            min(longest, int(longest / 8 * rng.lognormvariate(0, LENGTHS_SIGMA)) + 4) for _ in range(BATCHES * requests)
        ]
        work = await asyncio.gather(*(bench.waiting(index, cap // 2, cap) for index, cap in enumerate(caps)))

        async def batches(*, cached: bool) -> int:
            starts = range(0, len(work), requests)
            return sum([await bench.in_rounds(work[start : start + requests], cached=cached) for start in starts])

        rounds = {"rounds": partial(batches, cached=False), "rounds with a prefix cache": partial(batches, cached=True)}
        several = {**rounds, **await ways(work)}
        lines.append(report("rounds", requests, work, await compare(several, turns), "rounds"))
    return lines


async def run(given: argparse.Namespace) -> list[str]:
    """Bounds that are missed."""
    from transformers import AutoTokenizer

    lengths = Lengths(given.thinking, given.answer)
    values = {"max_model_len": 2 * (lengths.thinking + lengths.answer) + 128, **json.loads(given.engine)}
    options = {driver: EngineOptions.model_validate({**values, "driver": driver}) for driver in DRIVERS}
    os.environ.update(options["segments"].environment())
    folder = models.resolve(given.model)
    template = Template(AutoTokenizer.from_pretrained(folder), options["segments"].style)
    engines: dict[Driver, VllmEngine] = {}
    try:
        for driver in DRIVERS:
            engines[driver] = VllmEngine(folder, options[driver], template)
        bench = Bench(engines, template, lengths)
        lines: list[Line] = []
        for requests in given.requests:
            cases = [case for case in given.cases if case != "rounds" or requests == max(given.requests)]
            lines += await measure(bench, cases, requests, given.turns)
        return [text for line in lines for text in missed(line)]
    finally:
        for engine in engines.values():
            engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32], help="worked on at a time")
    parser.add_argument("--cases", nargs="+", choices=list(MIN_RATIOS), default=list(MIN_RATIOS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--thinking", type=int, default=192, help="largest number of thinking tokens")
    parser.add_argument("--answer", type=int, default=32, help="largest number of answer tokens")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--engine", default="{}", help="fields of EngineOptions as JSON")
    told = asyncio.run(run(parser.parse_args()))
    for text in told:
        print(f"missed: {text}", file=sys.stderr)
    raise SystemExit(1 if told else 0)


if __name__ == "__main__":
    main()
