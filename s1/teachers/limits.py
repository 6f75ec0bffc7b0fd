"""The rules that keep a paid service willing: pace, concurrency, circuit breaker, budget. Pure; time is an argument.

Every rule looks at the whole cluster. Each class answers one question about the next request and is told how requests
ended; `s1.teachers.limiter` puts them together.
"""

from __future__ import annotations

import math
from collections import deque

from pydantic import Field

from s1.config import Config
from s1.teachers.protocol import without_ids


class Limits(Config):
    """How much a service may be asked at once, by one job in the whole cluster."""

    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Requests per minute that the service allows; by default no limit."
    )
    tokens_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="Tokens per minute of prompt and response that the service allows; by default no limit.",
    )
    max_concurrency: int = Field(
        default=256, ge=1, description="Most requests under way; the number adapts below this."
    )
    give_up_after_s: float = Field(
        default=1800.0, gt=0, description="Stop the job after this long without a successful request."
    )


class Pace:
    """At most `per_minute` units a minute, evenly spread; after a lull at most `burst_s` seconds' worth at once.

    Slots are given out by a virtual clock, so that a caller who comes late loses nothing within the burst, and one who
    always waits gets the whole rate.
    """

    # Evenly spread requests arrive with jitter: a little below the limit, none of them is the one too many.
    MARGIN = 0.995

    def __init__(self, per_minute: float | None, burst_s: float, now: float) -> None:
        self.seconds_per_unit = 60.0 / (per_minute * self.MARGIN) if per_minute else 0.0
        self.burst_s = burst_s
        self._next = now + burst_s  # no burst at the start: nobody knows what was asked just before

    def wait_s(self, now: float) -> float:
        """Seconds until the next unit may be taken; 0 when it may be now."""
        return max(0.0, self._next - self.burst_s - now)

    def take(self, now: float, units: float) -> None:
        """Take `units` now. What is more than one is waited for by those who come after."""
        self._next = max(self._next, now) + units * self.seconds_per_unit

    def correct(self, units: float) -> None:
        """Take so many more, or give them back, once it is known how many they were."""
        self._next += units * self.seconds_per_unit


class Concurrency:
    """How many requests may be under way: additive increase, multiplicative decrease.

    Results are looked at in rounds of as many as may be under way. A round with few failures adds one (doubles, until
    the first decrease); as soon as a round has too many, the limit is cut, and results of requests that were sent
    before the cut say nothing more. Single failures, which every service has, change nothing.
    """

    # Failures come back sooner than answers: a low start would be cut before the first answer is there.
    FIRST = 64
    FACTOR = 0.7
    TOLERATED = 0.2  # share of a round that may fail

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(self.FIRST, most))
        self.era = 0  # counts the cuts
        self._doubles = True
        self._in_round = self._failed = 0

    def allows(self, num_under_way: int) -> bool:
        """Whether one more may be sent."""
        return num_under_way < math.floor(self.limit)

    def finished(self, era: int, *, failed: bool, is_full: bool) -> bool:
        """Note a result of a request that was sent in `era`; True when this cuts the limit.

        `is_full`: whether as many were under way as allowed. A limit that nobody reaches is not raised.
        """
        if era != self.era:
            return False
        self._in_round += 1
        self._failed += failed
        if self._failed > max(self.TOLERATED * self.limit, min(3.0, self.limit / 2)):
            self.limit = max(1.0, self.limit * self.FACTOR)
            self.era += 1
            self._doubles = False
            self._in_round = self._failed = 0
            return True
        if self._in_round >= self.limit:
            if is_full:
                raised = self.limit * 2 if self._doubles else self.limit + 1
                self.limit = min(float(self.most), raised)
            self._in_round = self._failed = 0
        return False


class Breaker:
    """Opens when most of the last requests failed: nothing is sent for a while, then one request to try.

    The first one that goes well closes it again; every try that fails doubles the pause.
    """

    WINDOW = 20
    SHARE = 0.5

    def __init__(self, first_pause_s: float, longest_pause_s: float) -> None:
        self.first_pause_s, self.longest_pause_s = first_pause_s, longest_pause_s
        self._last: deque[bool] = deque(maxlen=self.WINDOW)
        self._pause_s = 0.0  # 0: closed
        self._until = 0.0
        self._is_trying = False

    @property
    def is_open(self) -> bool:
        """Whether it is open, the time of single tries included."""
        return self._pause_s > 0

    def wait_s(self, now: float) -> float:
        """Seconds until a request may be sent."""
        return max(0.0, self._until - now) if self.is_open else 0.0

    def sent(self, now: float) -> None:
        """Note a request. While open it is a try: the next one may follow after another pause, were this one lost."""
        if self.is_open:
            self._until, self._is_trying = now + self._pause_s, True

    def finished(self, now: float, *, failed: bool) -> None:
        """Note a result."""
        if self.is_open:
            if not failed:
                self._pause_s, self._is_trying = 0.0, False
                self._last.clear()
            elif self._is_trying:  # others were sent before it opened
                self._open(now, 2 * self._pause_s)
            return
        self._last.append(failed)
        if len(self._last) == self.WINDOW and sum(self._last) > self.SHARE * self.WINDOW:
            self._open(now, self.first_pause_s)

    def _open(self, now: float, pause_s: float) -> None:
        self._pause_s = min(pause_s, self.longest_pause_s)
        self._until, self._is_trying = now + self._pause_s, False


class Refusals:
    """Notices a service that gives all of its first requests the same refusal: it will give it to every other one.

    A service that has answered before refuses some questions, not all of them.
    """

    ENOUGH = 20

    def __init__(self, *, has_answered: bool) -> None:
        self._has_answered = has_answered
        self._kind = ""
        self._count = 0

    def finished(self, refusal: str) -> bool:
        """Note an answer, or what was said in place of one; True when that is enough."""
        kind = without_ids(refusal)
        self._has_answered = self._has_answered or not refusal or self._kind not in ("", kind)
        self._kind = kind
        self._count += 1
        return not self._has_answered and self._count >= self.ENOUGH


class Budget:
    """Money: spent, and set aside for what is under way. Shared by all services of a job."""

    def __init__(self, max_usd: float | None, spent_usd: float = 0.0) -> None:
        self.max_usd = max_usd
        self.spent_usd = spent_usd
        self.reserved_usd = 0.0
        self.num_under_way = 0

    def allows(self, usd: float) -> bool:
        """Whether a request that is likely to cost `usd` fits under the cap, beside all that is under way."""
        if self.max_usd is None:
            return True
        return self.spent_usd < self.max_usd and self.spent_usd + self.reserved_usd + usd <= self.max_usd

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing that is under way can make room any more. Ask when `allows` has said no."""
        return self.max_usd is not None and (self.num_under_way == 0 or self.spent_usd >= self.max_usd)

    def reserve(self, usd: float) -> None:
        """Set aside what a request is likely to cost."""
        self.reserved_usd += usd
        self.num_under_way += 1

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """What was set aside for a request has become what it cost."""
        self.num_under_way -= 1
        self.reserved_usd = max(0.0, self.reserved_usd - reserved_usd) if self.num_under_way else 0.0
        self.spent_usd += spent_usd
