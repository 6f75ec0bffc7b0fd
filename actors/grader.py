"""Graders on Ray Data: what is wrong with a trace, whether an attempt is right."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from s1 import models
from s1.curation import quality
from s1.curation.decontaminate import Index
from s1.grading.verify import correct
from s1.template import Template

CONTAMINATED = "contaminated"  # the question touches a test question
TRACE_CONTAMINATED = "trace_contaminated"  # its thinking or attempt does


def ruled_out(issues: Iterable[str]) -> bool:
    """Whether these issues rule a row out, so that no model need be asked about it. A trace that touches a test
    question does not: `select` may allow it.
    """
    return any(name != TRACE_CONTAMINATED for name in issues)


@dataclass(frozen=True)
class TestItems:
    """Test questions, what each is called, and when a text touches one."""

    names: list[str]
    questions: list[str]
    ngram: int = 8
    normalise: bool = False
    coverage: float = 0.0

    def index(self) -> Index:
        """The index that texts are looked up in."""
        return Index(self.questions, self.ngram, self.normalise, self.coverage)


# Grading a response waits for a process most of the time.
_THREADS = 4


class TraceGrader:
    """Judges traces on a worker; takes and gives Arrow tables."""

    def __init__(self, student: str, tests: TestItems) -> None:
        from transformers import AutoTokenizer

        self._template = Template(AutoTokenizer.from_pretrained(str(models.resolve(student))), "think-tags")
        self._names, self._index = tests.names, tests.index()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """question_id, what is wrong, which test questions are touched, trace_correct and lengths of every row."""
        rows: list[dict[str, Any]] = batch.to_pylist()
        faults = [quality.issues(row) for row in rows]
        by_question = self._touched([row["question"] or "" for row in rows])
        by_trace = self._touched([f"{row['thinking'] or ''}\n{row['attempt'] or ''}" for row in rows])
        for names, question, trace in zip(faults, by_question, by_trace, strict=True):
            names += [CONTAMINATED] if question else []
            names += [TRACE_CONTAMINATED] if trace else []
        thinking, attempt = self._num_tokens(rows, "thinking"), self._num_tokens(rows, "attempt")
        return pa.table(
            {
                "question_id": batch["question_id"],
                "quality_issues": pa.array(faults, pa.list_(pa.string())),
                "question_touches": pa.array(by_question, pa.string()),
                "trace_touches": pa.array(by_trace, pa.string()),
                "trace_correct": _verdicts(rows, "attempt"),
                "trace_tokens": pa.array(map(sum, zip(thinking, attempt, strict=True)), pa.int64()),
                "thinking_tokens": pa.array(thinking, pa.int64()),
            }
        )

    def _touched(self, texts: list[str]) -> list[str | None]:
        """Names of the test questions that the texts touch."""
        return [self._names[at] if at >= 0 else None for at in self._index.touched(texts).tolist()]

    def _num_tokens(self, rows: list[dict[str, Any]], column: str) -> list[int]:
        return [len(self._template.plain(row[column] or "")) for row in rows]


def grade_attempts(batch: pa.Table) -> pa.Table:
    """question_id, solver_attempt and solver_correct of every row; no verdict where nothing was asked."""
    rows: list[dict[str, Any]] = batch.to_pylist()
    verdicts = _verdicts(rows, "solver_attempt").to_pylist()
    asked = [row["solver_attempt"] is not None for row in rows]
    known = [verdict if was_asked else None for verdict, was_asked in zip(verdicts, asked, strict=True)]
    return pa.table(
        {
            "question_id": batch["question_id"],
            "solver_attempt": batch["solver_attempt"],
            "solver_correct": pa.array(known, pa.bool_()),
        }
    )


def _verdicts(rows: list[dict[str, Any]], column: str) -> pa.Array:
    with ThreadPoolExecutor(_THREADS) as threads:
        verdicts = list(threads.map(lambda row: correct(row, row[column]), rows))
    return pa.array(verdicts, pa.bool_())
