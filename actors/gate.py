"""A worker's side of the rate limiter: permits, signs of life, and word of what is finished."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

from s1.teachers.limiter import Result, Stop
from s1.teachers.numbers import Finished
from s1.teachers.protocol import TraceOutcome

_BEAT_S = 1.0
_ENTERING = 32  # calls of a worker that wait for a permit at once: more would only wait elsewhere
_GONE = Stop("the rate limiter of this job is gone")


class Connection:
    """One worker's connection to the limiter: an actor handle, or the object itself in the same process."""

    def __init__(self, limiter: Any) -> None:
        self.holder = uuid.uuid4().hex[:12]
        self.stopped: Stop | None = None
        self.entering = asyncio.Semaphore(_ENTERING)
        self._limiter = limiter
        self._stop_event = asyncio.Event()
        self._by_status: Counter[str] = Counter()
        self._tokens = self._requests = 0
        self._beating: asyncio.Task[None] | None = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call the limiter; a limiter that is gone stops everything."""
        from ray.exceptions import RayActorError

        bound = getattr(self._limiter, method)
        try:
            return await (bound.remote if hasattr(bound, "remote") else bound)(*arguments)
        except RayActorError:
            self._stop(_GONE)
            return self.stopped

    def start(self) -> None:
        """Begin to show signs of life, on the running event loop."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    def finished(self, outcome: TraceOutcome, *, is_local: bool) -> None:
        """Note a finished question; `is_local`: a model of the worker's own answered, without a permit."""
        self._by_status[outcome.status] += 1
        self._tokens += (outcome.input_tokens or 0) + (outcome.output_tokens or 0)
        self._requests += is_local

    async def tell(self) -> None:
        """A sign of life, with what has been finished since the last one."""
        told = Finished(dict(self._by_status), self._tokens, self._requests)
        self._by_status.clear()
        self._tokens = self._requests = 0
        self._stop(await self.call("renew", self.holder, told))

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the job stops."""
        waiting = asyncio.ensure_future(self._stop_event.wait())
        await asyncio.wait({waiting}, timeout=seconds)
        waiting.cancel()

    async def _beat(self) -> None:
        while self.stopped is not _GONE:
            await self.tell()
            await asyncio.sleep(_BEAT_S)

    def _stop(self, stopped: Stop | None) -> None:
        if stopped is not None:
            self.stopped = self.stopped or stopped
            self._stop_event.set()


class ActorGate:
    """Permits for one service."""

    def __init__(self, connection: Connection, service: str) -> None:
        self._connection, self._service = connection, service

    async def enter(self) -> int | Stop:
        async with self._connection.entering:
            while True:
                if self._connection.stopped is not None:
                    return self._connection.stopped
                verdict: int | Stop | None = await self._connection.call(
                    "enter", self._service, self._connection.holder
                )
                if verdict is not None:
                    return verdict

    async def leave(self, permit: int, result: Result) -> None:
        await self._connection.call("leave", permit, result)

    async def pause(self, seconds: float) -> None:
        await self._connection.pause(seconds)
