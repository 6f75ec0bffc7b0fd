"""What a training is billed for: the time in which its workers are there, over all attempts, whatever they do.

Waiting for workers is not billed. Kept beside the checkpoints, so that an attempt that was killed still counts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s1.artifacts import Artifact

if TYPE_CHECKING:
    from actors.journal import Held

FILE = "billed.json"
INTERVAL_S = 5.0  # what a kill can hide from the bill


@dataclass(frozen=True)
class Span:
    """Some time with the same number of workers at the same price; `start` and `end` in seconds since 1970."""

    start: float
    end: float
    workers: int
    usd_per_hour: float  # of one worker


def seconds(spans: Sequence[Span], until: float = float("inf")) -> float:
    """Seconds that were billed before the time `until`."""
    return sum(max(0.0, min(span.end, until) - span.start) for span in spans)


def worker_seconds(spans: Sequence[Span], until: float = float("inf")) -> float:
    """The same, each second counted once per worker."""
    return sum(max(0.0, min(span.end, until) - span.start) * span.workers for span in spans)


class Bill:
    """The spans of a training whose scratch folder is `scratch`; an attempt is `with bill:`, with `tick` inside.

    `usd_per_hour` is the price of a worker in this attempt; earlier ones keep theirs.
    """

    def __init__(self, scratch: str, usd_per_hour: float) -> None:
        self._file = Path(Artifact(scratch).path) / FILE
        self.usd_per_hour = usd_per_hour
        self.spans = [Span(*span) for span in json.loads(self._file.read_text())] if self._file.is_file() else []
        self._earlier = tuple(self.spans)  # of other attempts
        self._held: Sequence[Held] = ()
        self._written = 0.0
        self._told = False

    def __enter__(self) -> Bill:
        return self

    def __exit__(self, *_: object) -> None:
        self.tick(self._held)
        self._write()

    def tick(self, held: Sequence[Held]) -> None:
        """The groups of workers of this attempt until now; the one that has no end is still there."""
        now = time.time()
        self._held = held
        ends = [(start, now if end is None else end, workers) for start, end, workers in held]
        self.spans = [
            *self._earlier,
            *(Span(start, max(start, end), workers, self.usd_per_hour) for start, end, workers in ends),
        ]
        if now - self._written >= INTERVAL_S:
            self._write()

    def usd(self, until: float = float("inf")) -> float:
        """Price of what was billed before the time `until`."""
        return sum(worker_seconds([span], until) / 3600 * span.usd_per_hour for span in self.spans)

    def _write(self) -> None:
        self._written = time.time()
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps([astuple(span) for span in self.spans]))
            os.replace(new, self._file)
        except OSError as error:  # no reason to end a training
            if not self._told:
                print(f"train: {self._file} cannot be written ({error}); the cost may be told too low", file=sys.stderr)
            self._told = True
