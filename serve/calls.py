"""One request on its way through an engine: counted, timed, given up at its deadline, cancelled with its client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

from serve.events import Accepted, Added, Completed, Event, Finished, Progress, Rejected
from serve.metrics import Metrics
from serve.protocol import Order


class Events(Protocol):
    """What a handle's streaming call gives."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def __anext__(self) -> Event: ...

    def cancel(self) -> None: ...


def streaming(handle: Any) -> Any:
    """The handle for calls whose results come one by one.

    They come straight from the replica: by way of Ray's object store every one would be an object of its own.
    """
    return handle.options(stream=True, _by_reference=False)


class DeadlinePassed(Exception):
    """The request was not finished in the time that it had."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"the request was given up: it was not finished after {deadline_s:g} s")


async def follow(order: Order, events: Events, arrived: float, metrics: Metrics) -> AsyncGenerator[Event, None]:
    """`events` of an engine for `order`, which arrived at `arrived` (time.monotonic).

    Closing the generator frees the engine at once. DeadlinePassed when the order's time is over.
    """
    meter = _Meter(order, arrived, metrics)
    left = None if order.deadline_s is None else order.deadline_s - (time.monotonic() - arrived)
    ends = None if left is None else asyncio.get_running_loop().time() + left
    try:
        while True:
            try:
                async with asyncio.timeout_at(ends):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                assert order.deadline_s is not None
                raise DeadlinePassed(order.deadline_s) from error
            meter.saw(event)
            yield event
    finally:
        meter.close()
        # A client that went away ends this generator, and must not keep the engine busy. A call that no replica took
        # raises here once more what is raised already.
        with suppress(Exception):
            events.cancel()


class _Meter:
    """Tells the metrics what becomes of one request."""

    def __init__(self, order: Order, arrived: float, metrics: Metrics) -> None:
        self._model, self._arrived, self._metrics = order.model, arrived, metrics
        self._state, self._has_text = metrics.waiting.labels(order.model), False
        self._alone = order.parallel is None
        self._unfinished: dict[int, Added] = {}  # choice -> what it had last
        self._state.inc()

    def saw(self, event: Event) -> None:
        metrics, model = self._metrics, self._model
        if isinstance(event, Accepted | Rejected):
            self._state.dec()
            self._state = metrics.running.labels(model)
            self._state.inc()
            metrics.waited.labels(model).observe(time.monotonic() - self._arrived)
        if isinstance(event, Accepted):
            metrics.prompt.labels(model).inc(event.prompt_tokens)
        elif isinstance(event, Added):
            self._unfinished[event.choice] = event
            if not self._has_text:
                self._has_text = True
                metrics.first.labels(model).observe(time.monotonic() - self._arrived)
        elif isinstance(event, Finished | Progress):
            if isinstance(event, Finished):
                self._unfinished.pop(event.choice, None)
            metrics.completed(model, event.report)
        elif isinstance(event, Completed) and self._alone:
            for choice in event.choices:
                metrics.completed(model, choice.report)

    def close(self) -> None:
        """What was generated for a client that left, or until the deadline, has cost the same as any other."""
        for last in self._unfinished.values():
            self._metrics.generated(self._model, last)
        self._state.dec()
        self._metrics.took.labels(self._model).observe(time.monotonic() - self._arrived)
