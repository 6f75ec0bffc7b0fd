"""Tells the journal when workers are lost, so that waiting for others is not billed. Runs in Ray Train's controller."""

from __future__ import annotations

from typing import Any

import ray
from ray.train import UserCallback


class ReleaseLost(UserCallback):
    """`journal`: handle of a Journal actor."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Before Ray Train starts other workers, whose beginning is told after this.
        ray.get(self._journal.release.remote())
