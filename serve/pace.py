"""A stream that sends less often the more streams there are, and never nothing for long.

A message between two processes costs far more than the token in it: on a machine whose cores are all at work, telling
every token by itself takes a good part of them away from the model. Text that comes in the meantime is sent together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

from serve.events import Added, Event, Segment

# By device: seconds for each stream that there is, and at most. Where the model computes on the CPUs that also send, 32
# streams are sent about eight times a second each; beside GPUs the CPUs have little else to do.
_PER_STREAM_S = {"cpu": 0.004, "gpu": 0.0005}
_LONGEST_S = {"cpu": 0.25, "gpu": 0.05}
COMMENT = ": still at work\n\n"


def interval_s(device: Literal["cpu", "gpu"], streams: int) -> float:
    """Seconds between two texts of each of `streams`: one alone shows every token of any model."""
    return min(_LONGEST_S[device], streams * _PER_STREAM_S[device])


async def paced(events: AsyncGenerator[Event, None], interval_s: Callable[[], float]) -> AsyncGenerator[Event, None]:
    """`events`, but text within `interval_s()` of the text before it waits, and is joined with what waits too.

    The first text, everything that is no text, and the end go out at once, and before them what came before. Closing it
    closes `events`; a failure of `events` comes after all that came before it.
    """
    waiting: list[Event] = []
    news, urgent = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    waiting.append(event)
                    news.set()
                    if not isinstance(event, Added):
                        urgent.set()
        finally:
            news.set()
            urgent.set()

    reader = asyncio.create_task(read())
    clock = asyncio.get_running_loop().time
    last_text = float("-inf")
    try:
        while not reader.done() or waiting:
            await news.wait()
            left = last_text + interval_s() - clock()
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(urgent.wait(), left)
            if not reader.done():
                news.clear()
                urgent.clear()
            batch = joined(waiting)
            waiting.clear()
            for event in batch:
                if isinstance(event, Added):
                    last_text = clock()
                yield event
        await reader
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def kept_alive(texts: AsyncGenerator[str, None], silence_s: float) -> AsyncGenerator[str, None]:
    """`texts` of a server-sent stream, with a comment after every `silence_s` in which there is none.

    Proxies end connections on which nothing comes, often after 60 s; clients skip comments (HTML standard, section
    9.2.6). Closing it closes `texts`.
    """
    coming: asyncio.Future[str | None] | None = None
    async with aclosing(texts):
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(texts, None))
                await asyncio.wait([coming], timeout=silence_s)
                if not coming.done():
                    yield COMMENT
                    continue
                text, coming = coming.result(), None
                if text is None:
                    return
                yield text
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


def joined(events: list[Event]) -> list[Event]:
    """`events` with neighbouring pieces of one completion as one piece."""
    result: list[Event] = []
    for event in events:
        before = result[-1] if result else None
        if isinstance(event, Added) and isinstance(before, Added) and before.choice == event.choice:
            result[-1] = replace(
                event,
                reasoning=before.reasoning + event.reasoning,
                content=before.content + event.content,
                segments=_joined_segments(before.segments + event.segments),
            )
        else:
            result.append(event)
    return result


def _joined_segments(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Neighbours of one kind as one."""
    result: list[Segment] = []
    for segment in segments:
        if result and (result[-1].forced, result[-1].part) == (segment.forced, segment.part):
            segment = replace(segment, text=result.pop().text + segment.text)
        result.append(segment)
    return tuple(result)
