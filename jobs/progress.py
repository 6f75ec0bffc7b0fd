"""Progress for everything that takes longer than a few seconds.

In a terminal a bar with rate and time left; otherwise one plain line every few seconds, so that logs stay readable.
"""

from __future__ import annotations

import sys
import time
from typing import Any

PLAIN_INTERVAL_S = 10.0


class Progress:
    """`with Progress("distill", total=900, unit="questions") as bar: bar.advance(1)`.

    Without a unit there is nothing to count: the time that passes is shown, and the note.
    """

    def __init__(self, label: str, total: int | None = None, unit: str | None = None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self._started = self._printed = time.monotonic()
        # When the first unit of this attempt came: until then machines, engines and models have started.
        self._measured_from: float | None = None
        self._done_before = 0  # what was done then, and says nothing about the rate
        self._line = ""  # what was printed last
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = self._open_bar()
        return self

    def _open_bar(self) -> Any:
        from tqdm import tqdm

        if self.unit is None:
            return tqdm(desc=self.label, bar_format="{desc}: {elapsed}{postfix}", dynamic_ncols=True)
        unit = f" {self.unit}"
        return tqdm(total=self.total, desc=self.label, unit=unit, initial=self.done, dynamic_ncols=True)

    def resume(self, done: int) -> None:
        """`done` units are there from earlier, or workers begin anew: rate and time left are measured from the next."""
        self.done = done
        self._measured_from = None
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()
            self._bar = self._open_bar()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more as done; `note` (loss, cost …) stands beside the rate until the next one."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str | None = None) -> None:
        """Say that `done` units are finished in all."""
        step, self.done = done - self.done, done
        self.note = self.note if note is None else note
        if step > 0 and self._measured_from is None:
            self._measured_from, self._done_before = time.monotonic(), done
            if self._bar is not None:
                self._bar.unpause()
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(step)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        now = time.monotonic()
        passed, note = f"{now - self._started:.0f} s", f", {self.note}" if self.note else ""
        if self.unit is None:
            self._print(f"{self.label}: {passed}{note}")
            return
        of = f"/{self.total}" if self.total is not None else ""
        parts = [f"{self.label}: {self.done}{of} {self.unit}", passed]
        rate = self._rate(now)
        if rate is not None:
            parts.insert(1, f"{rate:.3g}/s")
            if self.total is not None and rate > 0:
                parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        self._print(", ".join(parts) + note)

    def _print(self, line: str) -> None:
        if line != self._line:
            print(line, file=sys.stderr, flush=True)
            self._line = line

    def _rate(self, now: float) -> float | None:
        """Units per second of this attempt; None as long as no unit has followed the first ones."""
        if self._measured_from is None or self.done == self._done_before or now <= self._measured_from:
            return None
        return (self.done - self._done_before) / (now - self._measured_from)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._printed != self._started:
            self._print_line()
