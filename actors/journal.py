"""What a training says while it runs: one record per optimiser step, kept by an actor that the driver asks."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


class Journal:
    """Records of all steps so far, and why the training stopped before its end, if it did."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._starts: list[int] = []
        self._stopped: str | None = None
        self._stop_wanted = False

    def restart(self, records: list[Record]) -> None:
        """A group of workers starts after the steps of `records`, which its checkpoint brought along."""
        self._records = list(records)
        self._starts.append(len(records))

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
        """The workers end here; `reason` is one line for the user."""
        self._stopped = reason

    def since(self, count: int) -> tuple[int, list[Record]]:
        """Steps done, and the records after the first `count`; all of them when there are fewer by now."""
        return len(self._records), self._records[count if count <= len(self._records) else 0 :]

    def result(self) -> tuple[list[Record], str | None]:
        """All records, and why the training stopped early."""
        return self._records, self._stopped
