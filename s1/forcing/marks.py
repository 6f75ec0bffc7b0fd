"""Memory that the engine's process writes and the driver's process reads: which ends of the thinking were replaced.

A driver cannot see that from the ids, because a model may say "Wait" by itself. An engine's outputs have no place for
it either, except beside logprobs, which cost time at every step. A mark is written before its token leaves the engine,
so it is there when the token arrives.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Cells = NDArray[np.uint32]


@dataclass(frozen=True)
class Place:
    """Where the marks of one request are: a cell for each position of its completion, from `offset` on.

    A cell that holds `tag` is marked. What an earlier request left there, or writes when it is already over, is not.
    """

    path: str
    offset: int
    tag: int

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_wire(cls, values: Mapping[str, Any]) -> Place:
        return cls(**values)

    def mark(self, position: int) -> None:
        """The token at `position` is put in place of an end. Called in the engine's process, as all of these are."""
        self._cells[self.offset + position] = self.tag

    def before(self, stop: int) -> list[int]:
        """Positions before `stop`, in order, whose tokens were put in place of an end."""
        return np.flatnonzero(self._cells[self.offset : self.offset + stop] == self.tag).tolist()

    def clear(self, start: int, stop: int) -> None:
        """No token at a position from `start` on and before `stop` was put in place of an end."""
        cells = self._cells[self.offset + start : self.offset + stop]
        cells[cells == self.tag] = 0  # the place may be another request's by now

    @property
    def _cells(self) -> _Cells:
        # The number tells memories apart that had the same path one after the other.
        return _mapped(self.path, os.stat(self.path).st_ino)


@dataclass(frozen=True)
class Seen:
    """A place in a process that only follows another one, which writes the marks of both."""

    place: Place

    def mark(self, position: int) -> None:
        pass

    def before(self, stop: int) -> list[int]:
        return self.place.before(stop)

    def clear(self, start: int, stop: int) -> None:
        pass


class Marks:
    """The marks of at most `num_requests` at a time, each with completions of at most `num_positions` tokens.

    The memory belongs to no file and ends with this process, however it ends.
    """

    def __init__(self, num_requests: int, num_positions: int) -> None:
        self._memory = os.memfd_create("s1-marks")
        os.ftruncate(self._memory, num_requests * num_positions * np.dtype(np.uint32).itemsize)
        self._path = f"/proc/{os.getpid()}/fd/{self._memory}"
        self._cells = _mapped(self._path, os.stat(self._path).st_ino)
        self._tags = itertools.cycle(range(1, 2**32))
        # First in, first out: a place is taken again as late as possible.
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for number in range(num_requests):
            self._free.put_nowait(number * num_positions)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[Place, None]:
        """A place for one request; waits until one is free."""
        offset = await self._free.get()
        try:
            yield Place(self._path, offset, next(self._tags))
        finally:
            self._free.put_nowait(offset)

    def marked(self, place: Place, position: int) -> bool:
        """Whether the token at `position` was put in place of an end."""
        return int(self._cells[place.offset + position]) == place.tag

    def close(self) -> None:
        os.close(self._memory)


@lru_cache(maxsize=8)
def _mapped(path: str, number: int) -> _Cells:
    return np.memmap(path, dtype=np.uint32, mode="r+")
