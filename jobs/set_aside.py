"""Rows of files that cannot be used, set aside: counted, and listed beside the table that is made without them."""

from __future__ import annotations

import sys

from s1.artifacts import Staging

FILE = "_set_aside.txt"
_MAX_LINES = 10_000  # of that file


class SetAside:
    """How many rows, and the first of them in words."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []

    def add(self, line: str, num_rows: int = 1) -> None:
        """Count the rows that a line is about."""
        self.count += num_rows
        if len(self.lines) < _MAX_LINES:
            self.lines.append(line)

    def tell(self, job: str, staging: Staging) -> None:
        """List them in a file of the table, and say so; nothing when there are none."""
        if self.count:
            staging.write_bytes(FILE, "".join(f"{line}\n" for line in self.lines).encode())
            print(f"{job}: {self.count} rows set aside, listed in {FILE}: {self.lines[0]}", file=sys.stderr)
