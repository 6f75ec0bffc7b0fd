"""Benchmarks that a user brings: files, or data sets of the hub.

None of them is shipped: their licences differ, and some ask not to be published in plain text.
"""

from __future__ import annotations

from typing import Any

from s1.errors import UserError
from s1.sources import mapping, records, table


def check(reference: str) -> None:
    """Raise UserError when `reference` cannot be a benchmark. Looks at local files only, downloads nothing."""
    if not reference.startswith(records.HUB):
        records.find(reference)


def load(reference: str, fields: mapping.Fields) -> list[dict[str, Any]]:
    """The rows of QUESTIONS of one benchmark: a path, a glob, or hub:owner/name[:split].

    The domain is the benchmark's name, so that its accuracy can be told from that of others. UserError when no row has
    a reference answer: nothing could be graded.
    """
    name = benchmark_name(reference)
    raw = (mapping.to_question(record, fields, f"benchmark:{name}") for record in records.read(reference))
    rows: list[dict[str, Any]] = table.collect(raw, seed=0, num_test=0).rows
    if not any(row["answer"] for row in rows):
        raise UserError(f"benchmark {reference!r}: none of {len(rows)} rows has an answer; name its field")
    return [{**row, "domain": name, "split": "test"} for row in rows]


def benchmark_name(reference: str) -> str:
    """What a benchmark is called: the name of its file or data set."""
    if reference.startswith(records.HUB):
        return reference.removeprefix(records.HUB).partition(":")[0].rpartition("/")[2]
    return records.stem(reference)
