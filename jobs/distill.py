"""Ask a teacher for a trace of every training question: QUESTIONS becomes TRACES.

    python -m jobs.distill --preset laptop
    python -m jobs.distill --teacher openai --openai.base-url http://127.0.0.1:8000/v1 --openai.model r1

Runs on Ray Data. What a teacher is paid for is recorded under <run-dir>/_ledger before it is used: a killed run goes on
where it stopped, and pays for nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from actors.teacher_pool import QUESTION_COLUMNS, Pool, outcome_table, stream
from jobs.progress import Progress
from jobs.ray_session import ray_session
from jobs.runner import Context, Job, Outcome, command
from s1 import schema
from s1.artifacts import Manifest, join
from s1.errors import UserError
from s1.sources import records
from s1.teachers import registry
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.protocol import Question, Status
from s1.teachers.registry import TeacherOptions, TeacherSpec

ROWS_PER_FILE = 10_000
Row = dict[str, Any]


class DistillOptions(TeacherOptions):
    """Whom to ask, and what for."""

    num_questions: int | None = Field(
        default=None, ge=1, description="Ask for a random sample of so many training questions."
    )
    max_lost: float = Field(
        default=0.0, ge=0, le=1, description="Share of questions that may be given up after passing failures."
    )
    ledger: str | None = Field(default=None, description="Folder of the paid records; <run-dir>/_ledger when left out.")
    pool: Pool = Field(default=Pool(), description="Workers on Ray.")


def describe(options: DistillOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    """Whom is asked, and for how many traces."""
    questions = manifests.get("questions")
    known = questions.facts.get("num_train") if questions else None
    count = "?" if known is None else min(known, options.num_questions or known)
    return [f"asks: {' then '.join(registry.chosen(options))} for {count} traces, {options.pool.num_workers} worker(s)"]


def run(options: DistillOptions, context: Context) -> Outcome:
    """Ask for what is not recorded yet, drop what is no trace, write the rest in the order of the questions."""
    questions = training_questions(options, context)
    spec = registry.spec(options)
    ledger_uri = (options.ledger or join(context.run_dir, "_ledger")) if spec.is_paid else None
    tally = Tally(recorded(questions, spec, ledger_uri))
    num_recorded = len(tally.rows)
    waiting = questions.filter(pa.array([key not in tally.rows for key in questions["question_id"].to_pylist()]))
    with Progress("distill", questions.num_rows, "questions") as bar:
        bar.update(num_recorded)
        for row in _asked(waiting, spec, ledger_uri, options.pool):
            tally.add(row)
            bar.advance(1, tally.note())
    check_losses(options, tally)
    rows = [
        _trace(question, tally.rows[question["question_id"]])
        for question in questions.to_pylist()
        if tally.rows[question["question_id"]]["status"] == Status.OK
    ]
    for number, start in enumerate(range(0, len(rows), ROWS_PER_FILE)):
        table = schema.to_table(rows[start : start + ROWS_PER_FILE], schema.TRACES)
        context.staging.write_table(table, f"part-{number:05d}.parquet")
    facts = {"num_recorded": num_recorded, "num_asked": waiting.num_rows, "reasons": tally.reasons()}
    return Outcome(questions.num_rows, len(rows), tally.dropped(), round(tally.cost_usd, 6), facts)


class Tally:
    """Outcomes so far, by question id, and what they add up to."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows: dict[str, Row] = {}
        self.counts: Counter[str] = Counter()
        self.cost_usd = 0.0
        self._details: dict[str, Counter[str]] = {}
        for row in rows.values():
            self.add(row)

    def add(self, row: Row) -> None:
        """Count one outcome."""
        self.rows[row["question_id"]] = row
        self.counts[row["status"]] += 1
        self.cost_usd += row["cost_usd"] or 0.0
        if row["status"] != Status.OK:
            self._details.setdefault(row["status"], Counter())[row["detail"]] += 1

    def dropped(self) -> dict[str, int]:
        """Outcomes that are no trace, by status."""
        return {status: count for status, count in sorted(self.counts.items()) if status != Status.OK}

    def reasons(self) -> dict[str, str]:
        """The most frequent detail of every kind of drop."""
        return {status: details.most_common(1)[0][0] for status, details in sorted(self._details.items())}

    def note(self) -> str:
        """For the progress line."""
        cost = f", ${self.cost_usd:.2f}" if self.cost_usd else ""
        return f"{self.counts[Status.OK]} ok, {sum(self.dropped().values())} dropped{cost}"


def training_questions(options: DistillOptions, context: Context) -> pa.Table:
    """The rows of QUESTIONS that a teacher may see. UserError when there is none."""
    table = context.inputs["questions"].read(schema.QUESTIONS)
    table = table.filter(pa.array([split == "train" for split in table["split"].to_pylist()]))
    if options.num_questions is not None and options.num_questions < table.num_rows:
        # Keys are hashes: the smallest ones are a sample that stays the same when questions are added.
        sample = set(sorted(table["question_id"].to_pylist())[: options.num_questions])
        table = table.filter(pa.array([key in sample for key in table["question_id"].to_pylist()]))
    if not table.num_rows:
        raise UserError("no training question in this run; lower collect.num_test or collect more")
    return table


def recorded(questions: pa.Table, spec: TeacherSpec, ledger_uri: str | None) -> dict[str, Row]:
    """Outcomes that an earlier run has paid for, by question id.

    With a first teacher that costs nothing, the workers look them up themselves, after that one has been asked.
    """
    identity = spec.identity(spec.names[0])
    if ledger_uri is None or identity is None:
        return {}
    ledger = Ledger(ledger_uri)
    ledger.refresh()
    asked = [Question(**values) for values in questions.select(QUESTION_COLUMNS).to_pylist()]
    found = [(question, ledger.get(request_key(question.question, identity))) for question in asked]
    known = [(question, outcome) for question, outcome in found if outcome is not None]
    if len(spec.names) > 1:
        known = [(question, outcome) for question, outcome in known if outcome.status != Status.DECLINED]
    rows = outcome_table([question for question, _ in known], [outcome for _, outcome in known]).to_pylist()
    return {row["question_id"]: row for row in rows}


def _asked(questions: pa.Table, spec: TeacherSpec, ledger_uri: str | None, pool: Pool) -> Iterator[Row]:
    if questions.num_rows:
        with ray_session():
            yield from stream(questions, spec, ledger_uri, pool)


def check_losses(options: DistillOptions, tally: Tally) -> None:
    """UserError when too many requests failed in a way that may pass, or when no trace is left."""
    lost, asked = tally.counts[Status.TRANSIENT], len(tally.rows)
    if lost > options.max_lost * asked:
        raise UserError(
            f"{lost} of {asked} requests failed again and again ({tally.reasons()[Status.TRANSIENT]}); what was "
            f"finished is kept: run the same command again, or allow the loss with --max-lost {lost / asked:.3g}"
        )
    if not tally.counts[Status.OK]:
        said = "; ".join(f"{status}: {reason}" for status, reason in tally.reasons().items())
        raise UserError(
            f"{' then '.join(registry.chosen(options))} gave no trace for any of {asked} questions ({said})"
        )


def _trace(question: Row, outcome: Row) -> Row:
    """One row of TRACES."""
    kept = {name: question[name] for name in ("question_id", "question", "answer", "source", "domain", "metadata")}
    return {**kept, **{name: outcome[name] for name in schema.TRACES.names if name not in kept}}


JOB = Job(
    name="distill",
    summary=(__doc__ or "").strip(),
    options=DistillOptions,
    inputs=("questions",),
    output="traces",
    run=run,
    check=registry.check,
    describe=describe,
    outside=lambda options: records.state(options.recorded.path) if "recorded" in registry.chosen(options) else None,
)

if __name__ == "__main__":
    command(JOB)
