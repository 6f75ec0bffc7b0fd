"""Progress for everything that takes longer than a few seconds.

In a terminal a bar with rate and time left; otherwise one plain line every few seconds, so that logs stay readable.
"""

from __future__ import annotations

import sys
import time

PLAIN_INTERVAL_S = 10.0


class Progress:
    """`with Progress("distill", total=900, unit="questions") as bar: bar.advance(1)`."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self._started = self._printed = time.monotonic()
        self._bar = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.label, unit=f" {self.unit}", dynamic_ncols=True)
        return self

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more as done; `note` (loss, cost …) stands beside the rate until the next one."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str | None = None) -> None:
        """Say that `done` units are finished in all."""
        step, self.done = done - self.done, done
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(step)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self.done / elapsed
        of = f"/{self.total}" if self.total is not None else ""
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total is not None and rate > 0 else ""
        note = f", {self.note}" if self.note else ""
        line = f"{self.label}: {self.done}{of} {self.unit}, {rate:.3g}/s, {elapsed:.0f} s{left}{note}"
        print(line, file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._printed != self._started:
            self._print_line()
