"""The actor of the limits, as the object that it is: order, wake-ups, dead workers, dead drivers."""

import asyncio

import pytest

from actors import rate_limiter
from actors.rate_limiter import RateLimiter
from s1.teachers import limiter as rules
from s1.teachers.limiter import Result, Stop
from s1.teachers.limits import Breaker, Limits
from s1.teachers.numbers import Finished
from s1.teachers.openai import OpenAI

GOOD = Result(failed=False, tokens=30, usd=0.5)


def limited(**limits: object) -> RateLimiter:
    service = OpenAI(model="m", limits=Limits.model_validate(limits))
    return RateLimiter({"openai": service}, total=10)


def test_who_came_first_goes_first_as_soon_as_somebody_leaves():
    async def run() -> None:
        limiter = limited(max_concurrency=2)
        one, two = await limiter.enter("openai", "a"), await limiter.enter("openai", "b")
        order: list[str] = []

        async def enter(holder: str) -> None:
            await limiter.enter("openai", holder)
            order.append(holder)

        waiting = [asyncio.create_task(enter(holder)) for holder in "cde"]
        await asyncio.sleep(0)
        assert isinstance(one, int)
        assert isinstance(two, int)
        await limiter.leave(one, GOOD)
        await waiting[0]
        await limiter.leave(two, GOOD)
        await waiting[1]
        assert order == ["c", "d"]
        await limiter.stop("enough")
        await waiting[2]
        assert await limiter.enter("openai", "a") == Stop("enough")
        numbers = await limiter.report()
        assert (numbers.requests, numbers.cost_usd, numbers.num_under_way, numbers.stopped) == (2, 1.0, 2, "enough")

    asyncio.run(run())


def test_what_workers_tell_becomes_the_numbers_of_the_progress_line_and_of_the_metrics():
    async def run() -> None:
        limiter = limited()
        await limiter.renew("a", Finished({"ok": 3, "blocked": 1}, tokens=120))
        await limiter.renew("b", Finished({"ok": 1, "unasked": 2}, tokens=30, requests=1))
        numbers = await limiter.report()
        assert (numbers.num_ok, numbers.num_failed, numbers.num_done, numbers.num_left) == (4, 1, 5, 5)
        assert numbers.note().startswith("4 ok, 1 failed, 5 left, ")
        assert numbers.gauges()["ok"] == 4
        assert numbers.gauges()["tokens"] == 150
        assert numbers.tokens_per_s > 0

    asyncio.run(run())


def test_the_progress_line_says_why_next_to_nothing_is_asked():
    async def run() -> None:
        limiter = limited()
        assert "waiting" not in (await limiter.report()).note()
        for _ in range(Breaker.WINDOW):
            permit = await limiter.enter("openai", "a")
            assert isinstance(permit, int)
            await limiter.leave(permit, Result(failed=True, detail="HTTP 503: busy"))
        assert (await limiter.report()).note().endswith(", waiting: openai fails (HTTP 503: busy)")

    asyncio.run(run())


def test_permits_of_a_worker_that_is_silent_go_to_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules, "LEASE_S", 0.05)

    async def run() -> None:
        limiter = limited(max_concurrency=1)
        lost = await limiter.enter("openai", "dead")
        waiting = asyncio.create_task(limiter.enter("openai", "alive"))
        while not waiting.done():
            await limiter.renew("alive")
            await limiter.report()
            await asyncio.sleep(0.01)
        assert isinstance(lost, int)
        permit = waiting.result()
        assert isinstance(permit, int)
        await limiter.leave(lost, GOOD)  # it was only slow: nothing is counted twice
        assert (await limiter.report()).num_under_way == 1

    asyncio.run(run())


def test_while_the_driver_is_silent_nothing_is_granted_and_goes_on_when_it_is_back(monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        limiter = limited()
        monkeypatch.setattr(rate_limiter, "DRIVER_LEASE_S", -1.0)
        waiting = asyncio.create_task(limiter.enter("openai", "a"))
        for _ in range(10):
            assert await limiter.renew("a") is None
            await asyncio.sleep(0)
        assert not waiting.done()
        monkeypatch.undo()
        # As long ago as makes it silent, short of a stop.
        limiter._driver_seen -= rate_limiter.DRIVER_LEASE_S + 1
        await limiter.report()
        assert isinstance(await waiting, int)
        assert isinstance(await limiter.enter("openai", "a"), int)

    asyncio.run(run())


def test_who_waits_for_a_driver_that_stays_silent_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limiter, "DRIVER_LEASE_S", -1.0)

    async def run() -> None:
        limiter = limited()
        waiting = asyncio.create_task(limiter.enter("openai", "a"))
        await asyncio.sleep(0)
        monkeypatch.setattr(rate_limiter, "DRIVER_GONE_S", -1.0)
        await limiter.renew("a")
        assert await waiting == Stop("the driver is gone")

    asyncio.run(run())


def test_without_the_driver_the_job_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limiter, "DRIVER_GONE_S", -1.0)

    async def run() -> None:
        limiter = limited()
        assert await limiter.renew("a") == Stop("the driver is gone")
        assert await limiter.enter("openai", "a") == Stop("the driver is gone")

    asyncio.run(run())
