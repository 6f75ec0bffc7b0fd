"""How a job with paid teachers is doing: what its progress line and its metrics say."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from s1.teachers.protocol import Status

WINDOW_S = 30.0  # rates look back so far


@dataclass(frozen=True)
class Finished:
    """What a worker has finished since it last told: questions by status, and what was counted with them."""

    by_status: Mapping[str, int]
    tokens: int = 0
    requests: int = 0  # to a model of the worker's own, which need no permit


@dataclass(frozen=True)
class Numbers:
    """A moment of the job."""

    total: int  # questions to ask
    by_status: Mapping[str, int] = field(default_factory=dict[str, int])
    requests: int = 0
    requests_per_s: float = 0.0
    tokens: int = 0
    tokens_per_s: float = 0.0
    cost_usd: float = 0.0  # of this run and of what was recorded before
    num_under_way: int = 0
    concurrency: int = 0
    seconds_left: float | None = None
    stopped: str | None = None  # why nothing more is asked
    waits: str = ""  # why next to nothing is asked at the moment

    @property
    def num_ok(self) -> int:
        return self.by_status.get(Status.OK, 0)

    @property
    def num_done(self) -> int:
        """Questions that are finished, well or not."""
        return sum(count for status, count in self.by_status.items() if status != Status.UNASKED)

    @property
    def num_failed(self) -> int:
        return self.num_done - self.num_ok

    @property
    def num_left(self) -> int:
        return self.total - self.num_done

    def note(self) -> str:
        """For the progress line, which knows the questions a second and the time left."""
        line = (
            f"{self.num_ok} ok, {self.num_failed} failed, {self.num_left} left, {self.requests_per_s:.1f} requests/s, "
            f"{self.tokens_per_s:.0f} tokens/s, {self.num_under_way} under way, ${self.cost_usd:.2f}"
        )
        return f"{line}, waiting: {self.waits}" if self.waits else line

    def gauges(self) -> dict[str, float]:
        """The same numbers by name, for metrics."""
        return {
            "ok": self.num_ok,
            "failed": self.num_failed,
            "left": self.num_left,
            "requests": self.requests,
            "requests_per_s": self.requests_per_s,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "cost_usd": self.cost_usd,
            "under_way": self.num_under_way,
            "concurrency": self.concurrency,
            "seconds_left": -1.0 if self.seconds_left is None else self.seconds_left,
        }


class Rate:
    """Units a second over the last `WINDOW_S` seconds, or since the start when that is shorter."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._added: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now: float, units: float) -> None:
        self._added.append((now, units))
        self._sum += units

    def per_s(self, now: float) -> float:
        while self._added and self._added[0][0] < now - WINDOW_S:
            self._sum -= self._added.popleft()[1]
        return max(0.0, self._sum) / max(1e-3, min(WINDOW_S, now - self._started))


class Counts:
    """Adds up what workers tell, and makes `Numbers` of it."""

    def __init__(self, total: int, now: float) -> None:
        self.total = total
        self._by_status: Counter[str] = Counter()
        self._requests = self._tokens = 0
        self._request_rate, self._token_rate, self._question_rate = Rate(now), Rate(now), Rate(now)

    def requested(self, now: float) -> None:
        """A request to a service has ended."""
        self._requests += 1
        self._request_rate.add(now, 1)

    def finished(self, now: float, told: Finished) -> None:
        """Questions are finished."""
        self._by_status.update(told.by_status)
        self._requests += told.requests
        self._tokens += told.tokens
        self._request_rate.add(now, told.requests)
        self._token_rate.add(now, told.tokens)
        self._question_rate.add(now, sum(told.by_status.values()))

    def numbers(
        self, now: float, *, cost_usd: float, num_under_way: int, concurrency: int, stopped: str | None, waits: str
    ) -> Numbers:
        """How things are now."""
        rate = self._question_rate.per_s(now)
        left = self.total - sum(self._by_status.values())
        return Numbers(
            total=self.total,
            by_status=dict(self._by_status),
            requests=self._requests,
            requests_per_s=self._request_rate.per_s(now),
            tokens=self._tokens,
            tokens_per_s=self._token_rate.per_s(now),
            cost_usd=cost_usd,
            num_under_way=num_under_way,
            concurrency=concurrency,
            seconds_left=left / rate if rate > 0 else None,
            stopped=stopped,
            waits=waits,
        )
