"""What a training says while it runs: one record per optimiser step, kept by an actor that the driver asks."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


class Journal:
    """Records of all steps so far, and why the training stopped before its end, if it did."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._stopped: str | None = None

    def restart(self, records: list[Record]) -> None:
        """A group of workers starts after the steps of `records`, which its checkpoint brought along."""
        self._records = list(records)

    def add(self, record: Record) -> None:
        self._records.append(record)

    def stop(self, reason: str) -> None:
        """The workers end here; `reason` is one line for the user."""
        self._stopped = reason

    def latest(self) -> tuple[int, Record | None]:
        """Steps done and the record of the last one."""
        return len(self._records), self._records[-1] if self._records else None

    def result(self) -> tuple[list[Record], str | None]:
        """All records, and why the training stopped early."""
        return self._records, self._stopped
