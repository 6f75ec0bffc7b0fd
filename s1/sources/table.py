"""From questions as sources give them to the QUESTIONS table: keys, exact duplicates, what is kept for evaluation."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from s1 import hashing
from s1.sources.mapping import RawQuestion

Row = dict[str, object]


@dataclass(frozen=True)
class Collected:
    """Rows of QUESTIONS, in the order of the source, and how many were left out and why."""

    rows: list[Row]
    num_met: int
    dropped: dict[str, int]
    sources: dict[str, int]  # different questions of every source, before any sample is taken


def collect(raw: Iterable[RawQuestion], seed: int, num_test: int, num_questions: int | None = None) -> Collected:
    """Drop exact duplicates, keep at most `num_questions`, mark `num_test` of every domain as test.

    Which ones are kept and held out follows from seed and question, never from the order of rows.
    """
    by_id: dict[str, Row] = {}
    num_met = 0
    for question in raw:
        num_met += 1
        row = _row(question)
        by_id.setdefault(str(row["question_id"]), row)
    sources = dict(Counter(str(row["source"]) for row in by_id.values()))
    dropped = {"duplicate": num_met - len(by_id)}
    if num_questions is not None and len(by_id) > num_questions:
        dropped["beyond num_questions"] = len(by_id) - num_questions
        kept = set(_shuffled(by_id, seed, "sample")[:num_questions])
        by_id = {key: row for key, row in by_id.items() if key in kept}
    for key in held_out(list(by_id.values()), seed, num_test):
        by_id[key]["split"] = "test"
    return Collected(list(by_id.values()), num_met, dropped, sources)


def held_out(rows: Iterable[Row], seed: int, num_test: int) -> set[str]:
    """Keys of the test questions: `num_test` of every domain (of all rows without one), at most half of them."""
    domains: dict[object, list[str]] = {}
    for row in rows:
        domains.setdefault(row["domain"], []).append(str(row["question_id"]))
    return {key for keys in domains.values() for key in _shuffled(keys, seed, "split")[: min(num_test, len(keys) // 2)]}


def _shuffled(keys: Iterable[str], seed: int, purpose: str) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{purpose}:{key}".encode()).digest())


def _row(raw: RawQuestion) -> Row:
    metadata = None if raw.metadata is None else json.dumps(raw.metadata, ensure_ascii=False)
    return {
        "question_id": hashing.question_id(raw.question),
        "question": raw.question,
        "answer": raw.answer,
        "source": raw.source,
        "domain": raw.domain,
        "split": "train",
        "solution": raw.solution,
        "metadata": metadata,
    }
