"""What came of the questions so far: counted by outcome, with reasons; traces go to the spool."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.spool import Spool
from s1.teachers.protocol import PASSING, Status, without_ids

LOST = frozenset({*PASSING, Status.UNASKED})  # may still be had in another run
_NUM_REASONS = 3


class Tally:
    """Outcomes by question; every question counts once."""

    def __init__(self, question_ids: Sequence[str], spool: Spool) -> None:
        self.counts: Counter[str] = Counter()
        self.cost_usd = 0.0
        self._positions = {question_id: position for position, question_id in enumerate(question_ids)}
        self._spool = spool
        self._done: set[str] = set()
        self._details: dict[str, Counter[str]] = {}  # by status, then by kind of detail
        self._examples: dict[str, str] = {}  # the first detail of every kind

    def spent(self, cost_usd: float) -> None:
        """Add what was paid without an outcome of a question."""
        self.cost_usd += cost_usd

    def __contains__(self, question_id: str) -> bool:
        return question_id in self._done

    @property
    def total(self) -> int:
        return len(self._positions)

    @property
    def num_done(self) -> int:
        return len(self._done)

    @property
    def num_lost(self) -> int:
        """Questions that another run may still get a trace for."""
        return sum(self.counts[status] for status in LOST)

    @property
    def lost_share(self) -> str:
        """The share of these, rounded up, as a flag takes it."""
        return f"{math.ceil(1000 * self.num_lost / self.total) / 1000:g}"

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of OUTCOMES and keep it when it is a trace; a second one for a question is not counted."""
        question_id, status = row["question_id"], row["status"]
        if question_id in self._done:
            return
        self._done.add(question_id)
        self.counts[status] += 1
        self.cost_usd += row["cost_usd"] or 0.0
        if status == Status.OK:
            self._spool.add(self._positions[question_id], row)
        else:
            kind = without_ids(row["detail"])
            self._examples.setdefault(kind, row["detail"])
            self._details.setdefault(status, Counter())[kind] += 1

    def dropped(self) -> dict[str, int]:
        """Outcomes that are no trace, by status."""
        return {status: count for status, count in sorted(self.counts.items()) if status != Status.OK}

    def reasons(self) -> dict[str, dict[str, int]]:
        """The most frequent details of every kind of drop, with their counts.

        Those that differ in ids and numbers only are counted together, and told as the first of them was.
        """
        return {
            status: {self._examples[kind]: count for kind, count in kinds.most_common(_NUM_REASONS)}
            for status, kinds in sorted(self._details.items())
        }

    def main_loss(self) -> str:
        """The most frequent detail of the losses."""
        lost: Counter[str] = Counter()
        for status in LOST:
            lost.update(self._details.get(status, {}))
        return self._examples[lost.most_common(1)[0][0]]

    def note(self) -> str:
        """For the progress line."""
        return f"{self.counts[Status.OK]} ok, {sum(self.dropped().values())} dropped"
