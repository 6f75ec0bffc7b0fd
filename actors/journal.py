"""What a training says while it runs: one record per optimiser step, kept by an actor that the driver asks."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

Record = dict[str, Any]
# A group of workers: begun, ended (None: it is still there), how many. Times in seconds since 1970.
Held = tuple[float, float | None, int]


class News(NamedTuple):
    """What a training has done since somebody asked last."""

    done: int  # steps in all
    records: list[Record]  # the new ones; all of them when there are fewer than before
    restored: int  # steps that the checkpoint of this group of workers brought along
    group: int  # groups of workers that have started so far
    workers: int  # of this group; 0: none has started yet
    held: tuple[Held, ...] = ()  # all groups that there were, from the first one on


class Journal:
    """Records of all steps so far, and why the training stopped before its end, if it did."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._starts: list[int] = []
        self._workers = 0
        self._stopped: str | None = None
        self._stop_wanted = False
        self._held: list[Held] = []

    def hold(self, workers: int) -> None:
        """A group of `workers` is there, before it loads anything."""
        self.release()
        self._held.append((time.time(), None, workers))

    def release(self) -> None:
        """The workers that were there, if any, have ended or are lost."""
        if self._held and self._held[-1][1] is None:
            begun, _, workers = self._held[-1]
            self._held[-1] = (begun, time.time(), workers)

    def held(self) -> tuple[Held, ...]:
        """All groups of workers that there were, from the first one on."""
        return tuple(self._held)

    def restart(self, records: list[Record], workers: int) -> None:
        """A group of `workers` starts after the steps of `records`, which its checkpoint brought along."""
        self._records = list(records)
        self._starts.append(len(records))
        self._workers = workers

    def starts(self) -> list[int]:
        """Steps that were done when each group of workers began, from the first group on."""
        return self._starts

    def add(self, record: Record) -> bool:
        """Note a step; whether the training is asked to save and end."""
        self._records.append(record)
        return self._stop_wanted

    def ask_to_stop(self) -> None:
        """The workers save a checkpoint after their next step, and end."""
        self._stop_wanted = True

    def stop(self, reason: str) -> None:
        """The training ends here, whoever tries it again; `reason` is one line for the user, the first one counts."""
        self._stopped = self._stopped or reason

    def stopped(self) -> bool:
        """Whether the training has ended with a reason."""
        return self._stopped is not None

    def since(self, count: int) -> News:
        """What has been done since there were `count` steps."""
        records = self._records[count if count <= len(self._records) else 0 :]
        restored = self._starts[-1] if self._starts else 0
        return News(len(self._records), records, restored, len(self._starts), self._workers, self.held())

    def result(self) -> tuple[list[Record], str | None]:
        """All records, and why the training stopped early."""
        return self._records, self._stopped
