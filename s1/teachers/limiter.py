"""Who may send the next request to a service, and when: all limits of a job in one place. Pure; time is an argument.

A request needs a permit. Permits belong to a holder (a worker), who has to show signs of life: those of a holder that
died are taken back, and what they were to cost counts as spent, since nobody knows better.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from s1.teachers.limits import Breaker, Budget, Concurrency, Pace, Refusals
from s1.teachers.service import Service

LEASE_S = 10.0  # a holder that is silent for longer is dead
# A service that nobody has reached so far stands at a wrong address, or is not up: that is not waited for as long as
# for one that is disturbed.
UNREACHED_S = 60.0
_BURST_S = 0.5  # services count by the second: less than one leaves room for jitter
_MEANS_COUNT = 50  # so many results outweigh the expectation that the settings carry


@dataclass(frozen=True)
class Grant:
    """One request may be sent now."""

    permit: int


@dataclass(frozen=True)
class Wait:
    """Not now: ask again after so many seconds, or when a request has ended (always, when infinite)."""

    seconds: float


@dataclass(frozen=True)
class Stop:
    """Nothing may be sent any more; the reason is one line for the user."""

    reason: str


@dataclass(frozen=True)
class Result:
    """How a request ended, as far as limits care. `failed`: refused for now, timed out, or the service's own fault."""

    failed: bool
    tokens: int | None = None  # None: nobody knows
    usd: float = 0.0
    retry_after_s: float | None = None
    refusal: str = ""  # what the service said about a request that it does not accept
    detail: str = ""  # why it failed
    unreached: bool = False  # it was not sent: no connection to the service came about


@dataclass(frozen=True)
class _Permit:
    service: str
    holder: str
    tokens: float
    usd: float
    era: int


class _Mean:
    """The mean of what was seen; an expectation stands in for it at first."""

    def __init__(self, expected: float) -> None:
        self._sum, self._count = expected, 1.0

    @property
    def value(self) -> float:
        return self._sum / self._count

    def add(self, value: float) -> None:
        if self._count >= _MEANS_COUNT:  # old ones fade
            self._sum, self._count = self._sum * (1 - 1 / _MEANS_COUNT), self._count - 1
        self._sum, self._count = self._sum + value, self._count + 1


class _Service:
    """The limits of one service and how it is doing."""

    def __init__(self, settings: Service, now: float, *, has_answered: bool) -> None:
        limits, retry = settings.limits, settings.retry
        self.give_up_after_s = limits.give_up_after_s
        self.requests = Pace(limits.requests_per_minute, _BURST_S, now)
        self.tokens = Pace(limits.tokens_per_minute, _BURST_S, now)
        self.concurrency = Concurrency(limits.max_concurrency)
        self.breaker = Breaker(min(5 * retry.first_pause_s, retry.longest_pause_s), retry.longest_pause_s)
        self.refusals = Refusals(has_answered=has_answered)
        self.mean_tokens, self.mean_usd = _Mean(settings.expected_tokens), _Mean(settings.expected_usd)
        self.num_under_way = 0
        self.paused_until = 0.0
        self.failing_since: float | None = None
        self.was_reached = False
        self.failure = ""  # why the last request that failed did

    @property
    def patience_s(self) -> float:
        """How long it may do nothing but fail."""
        return self.give_up_after_s if self.was_reached else min(self.give_up_after_s, UNREACHED_S)

    def wait_s(self, now: float) -> float:
        if not self.concurrency.allows(self.num_under_way):
            return math.inf
        return max(
            self.breaker.wait_s(now),
            self.paused_until - now,
            self.requests.wait_s(now),
            self.tokens.wait_s(now),
            0.0,
        )

    def finished(self, now: float, permit: _Permit, result: Result) -> None:
        is_full = self.num_under_way + 1 >= math.floor(self.concurrency.limit)
        if result.tokens is not None:
            self.tokens.correct(result.tokens - permit.tokens)
        was_cut = self.concurrency.finished(permit.era, failed=result.failed, is_full=is_full)
        self.breaker.finished(now, failed=result.failed)
        self.was_reached = self.was_reached or not result.unreached
        if not result.failed:
            self.failing_since = None
            if result.tokens:  # a refusal used none
                self.mean_tokens.add(result.tokens)
                self.mean_usd.add(result.usd)
            return
        self.failing_since = now if self.failing_since is None else self.failing_since
        self.failure = result.detail
        # One request that is told to wait waits by itself; when many are, all wait.
        if result.retry_after_s is not None and (was_cut or self.breaker.is_open):
            self.paused_until = max(self.paused_until, now + min(result.retry_after_s, self.give_up_after_s))


class Limiter:
    """All services of a job, and the money that they share. `answered`: services that have answered in earlier runs."""

    def __init__(
        self, services: Mapping[str, Service], budget: Budget, now: float, answered: Collection[str] = ()
    ) -> None:
        self.budget = budget
        self.stopped: Stop | None = None
        self._services = {
            name: _Service(settings, now, has_answered=name in answered) for name, settings in services.items()
        }
        self._permits: dict[int, _Permit] = {}
        self._seen: dict[str, float] = {}
        self._next_permit = 0

    @property
    def num_under_way(self) -> int:
        """Requests that are under way, to all services."""
        return len(self._permits)

    @property
    def concurrency(self) -> int:
        """How many may be under way at the moment, to all services."""
        return sum(math.floor(service.concurrency.limit) for service in self._services.values())

    @property
    def waits(self) -> str:
        """Which services get nothing but single tries at the moment, and why; empty when there is none such."""
        tried = {name: service for name, service in self._services.items() if service.breaker.is_open}
        return ", ".join(f"{name} fails ({service.failure})" for name, service in tried.items())

    def ask(self, now: float, name: str, holder: str) -> Grant | Wait | Stop:
        """Whether `holder`, who has to be alive, may send a request to the service `name` now."""
        service = self._services[name]
        self._give_up(now, name, service)
        if self.stopped is not None:
            return self.stopped
        usd = service.mean_usd.value
        if not self.budget.allows(usd):
            if not self.budget.is_exhausted:
                return Wait(math.inf)
            spent = f"max_usd={self.budget.max_usd:g} is reached: ${self.budget.spent_usd:.4f} are spent"
            self.stop(f"{spent}, another request is expected to cost ${usd:.4f}")
            return self.ask(now, name, holder)
        wait_s = service.wait_s(now)
        if wait_s > 0:
            return Wait(wait_s if math.isinf(wait_s) else min(wait_s, self._left_s(now, service)))
        permit = _Permit(name, holder, service.mean_tokens.value, usd, service.concurrency.era)
        service.breaker.sent(now)
        service.requests.take(now, 1)
        service.tokens.take(now, permit.tokens)
        service.num_under_way += 1
        self.budget.reserve(usd)
        self._next_permit += 1
        self._permits[self._next_permit] = permit
        return Grant(self._next_permit)

    def finished(self, now: float, number: int, result: Result) -> None:
        """A request has ended. One whose permit was taken back has been counted already."""
        permit = self._permits.pop(number, None)
        if permit is None:
            return
        service = self._services[permit.service]
        service.num_under_way -= 1
        self.budget.settle(permit.usd, result.usd)
        service.finished(now, permit, result)
        if not result.failed and service.refusals.finished(result.refusal):
            self.stop(f"{permit.service} refuses every request ({result.refusal})")

    def renew(self, now: float, holder: str) -> None:
        """A sign of life."""
        self._seen[holder] = now

    def is_alive(self, now: float, holder: str) -> bool:
        """Whether there was a sign of life within the lease."""
        return now - self._seen.get(holder, -math.inf) <= LEASE_S

    def expire(self, now: float) -> int:
        """Take back the permits of holders that are dead; returns how many."""
        dead = {holder for holder in self._seen if not self.is_alive(now, holder)}
        lost = [number for number, permit in self._permits.items() if permit.holder in dead]
        for number in lost:
            permit = self._permits.pop(number)
            self._services[permit.service].num_under_way -= 1
            self.budget.settle(permit.usd, permit.usd)
        for holder in dead:
            del self._seen[holder]
        return len(lost)

    def stop(self, reason: str) -> None:
        """Grant nothing any more. The first reason stands."""
        self.stopped = self.stopped or Stop(reason)

    def _left_s(self, now: float, service: _Service) -> float:
        """Seconds until the service has failed for too long, if it goes on like that."""
        since = service.failing_since
        return math.inf if since is None else since + service.patience_s - now

    def _give_up(self, now: float, name: str, service: _Service) -> None:
        since = service.failing_since
        if since is None or self._left_s(now, service) > 0:
            return
        did = "has done nothing but fail" if service.was_reached else "could not be reached"
        self.stop(f"{name} {did} for {now - since:.0f} s ({service.failure})")
