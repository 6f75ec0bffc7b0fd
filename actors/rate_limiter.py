"""The one actor that all workers of a job ask before they send a request: limits, money, and the job's numbers.

A thin shell around `s1.teachers.limiter`: a queue for every service, the clock, and Ray's metrics. Workers show signs
of life and so does the driver; while the driver is silent nothing is granted, so that no request goes on without
somebody to use it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from s1.teachers.limiter import Grant, Limiter, Result, Stop, Wait
from s1.teachers.limits import Budget
from s1.teachers.numbers import Counts, Finished, Numbers
from s1.teachers.service import Service

# The driver shows itself every second. One that is only slow holds its workers up for as long as it is, no longer.
DRIVER_LEASE_S = 3.0
DRIVER_GONE_S = 30.0
_MAX_CALLS = 10_000  # calls that wait in the actor at once


class RateLimiter:
    """Permits for every service of a job. All methods run on one event loop."""

    def __init__(
        self,
        services: Mapping[str, Service],
        total: int,
        max_usd: float | None = None,
        spent_usd: float = 0.0,
        answered: Collection[str] = (),
    ) -> None:
        now = time.monotonic()
        self._limiter = Limiter(services, Budget(max_usd, spent_usd), now, answered)
        self._counts = Counts(total, now)
        self._queues: dict[str, deque[tuple[str, asyncio.Future[int | Stop | None]]]] = {
            name: deque() for name in services
        }
        self._changed = {name: asyncio.Event() for name in services}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._driver_seen = now
        self._gauges: dict[str, Any] | None = None

    async def enter(self, name: str, holder: str) -> int | Stop | None:
        """A permit for one request to the service `name`, first come, first served; or why there will be none.

        None for a holder that was taken for dead: it may ask again.
        """
        self._limiter.renew(time.monotonic(), holder)
        done: asyncio.Future[int | Stop | None] = asyncio.get_running_loop().create_future()
        self._queues[name].append((holder, done))
        if name not in self._serving or self._serving[name].done():
            self._serving[name] = asyncio.create_task(self._serve(name))
        return await done

    async def leave(self, permit: int, result: Result) -> None:
        """A request has ended."""
        now = time.monotonic()
        self._limiter.finished(now, permit, result)
        self._counts.requested(now)
        self._wake()

    async def renew(self, holder: str, told: Finished | None = None) -> Stop | None:
        """A worker's sign of life, with what it has finished; returns why the job stops, if it does."""
        now = time.monotonic()
        self._limiter.renew(now, holder)
        if told is not None:
            self._counts.finished(now, told)
        if now - self._driver_seen > DRIVER_GONE_S:
            self._stop("the driver is gone")
        return self._limiter.stopped

    async def stop(self, reason: str) -> None:
        """Grant nothing any more; what is under way goes on."""
        self._stop(reason)

    async def report(self) -> Numbers:
        """The driver's sign of life: how things are."""
        now = time.monotonic()
        was_silent, self._driver_seen = self._driver_is_silent(now), now
        if self._limiter.expire(now) or was_silent:
            self._wake()
        stopped = self._limiter.stopped
        return self._counts.numbers(
            now,
            cost_usd=self._limiter.budget.spent_usd,
            num_under_way=self._limiter.num_under_way,
            concurrency=self._limiter.concurrency,
            stopped=stopped.reason if stopped else None,
            waits=self._limiter.waits,
        )

    async def publish(self) -> Numbers:
        """`report`, and the same numbers as Ray metrics."""
        numbers = await self.report()
        if self._gauges is None:
            from ray.util.metrics import Gauge

            self._gauges = {name: Gauge(f"s1_distill_{name}", f"distill: {name}") for name in numbers.gauges()}
        for name, value in numbers.gauges().items():
            self._gauges[name].set(value)
        return numbers

    async def _serve(self, name: str) -> None:
        """Answer those who wait for the service `name`, in order, until nobody does."""
        queue = self._queues[name]
        while queue:
            now = time.monotonic()
            holder, done = queue[0]
            if not self._limiter.is_alive(now, holder):
                queue.popleft()
                done.set_result(None)
                continue
            if self._driver_is_silent(now) and self._limiter.stopped is None:
                await self._wait(name, math.inf)
                continue
            verdict = self._limiter.ask(now, name, holder)
            if isinstance(verdict, Wait):
                await self._wait(name, verdict.seconds)
                continue
            queue.popleft()
            done.set_result(verdict.permit if isinstance(verdict, Grant) else verdict)

    async def _wait(self, name: str, seconds: float) -> None:
        """So long, or until something has changed."""
        event = self._changed[name]
        event.clear()
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait({waiting}, timeout=None if math.isinf(seconds) else seconds)
        waiting.cancel()

    def _driver_is_silent(self, now: float) -> bool:
        return now - self._driver_seen > DRIVER_LEASE_S

    def _stop(self, reason: str) -> None:
        self._limiter.stop(reason)
        self._wake()

    def _wake(self) -> None:
        for event in self._changed.values():
            event.set()


def start(
    services: Mapping[str, Service],
    total: int,
    max_usd: float | None,
    spent_usd: float,
    answered: Collection[str] = (),
) -> Any:
    """The actor's handle. It lives on the driver's node and dies with the job; needs a Ray session.

    `answered`: services that have answered in earlier runs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(RateLimiter).options(num_cpus=0, max_concurrency=_MAX_CALLS, scheduling_strategy=here)
    return actor.remote(services, total, max_usd, spent_usd, answered)
