"""Teachers on Ray Data: questions stream in, classified outcomes stream out, what was paid for is recorded first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

import pyarrow as pa
from pydantic import Field

from s1.config import Config
from s1.errors import UserError
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.protocol import Question, Status, Teacher, TraceOutcome, asked
from s1.teachers.registry import TeacherSpec

OUTCOMES = pa.schema(
    [
        ("question_id", pa.string()),
        ("teacher", pa.string()),
        ("trace_kind", pa.string()),
        ("status", pa.string()),
        ("thinking", pa.string()),
        ("attempt", pa.string()),
        ("finish_reason", pa.string()),
        ("detail", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
    ]
)
QUESTION_COLUMNS = [field.name for field in fields(Question)]
# Ray Data keeps four batches of an asynchronous function under way in one task.
_BATCHES_UNDER_WAY = 4


class Pool(Config):
    """How many workers there are, and what each of them takes."""

    num_workers: int = Field(default=1, ge=1, description="Workers, each with a teacher of its own.")
    num_cpus: float = Field(default=0.5, ge=0, description="CPUs that Ray sets aside for a worker.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs of a worker.")
    concurrency: int = Field(default=64, ge=1, description="Questions under way at once on a worker.")


class TeacherWorker:
    """Teachers on a worker. Ray Data calls it with batches of questions, several at a time, on one event loop."""

    def __init__(self, spec: TeacherSpec, ledger_uri: str | None, concurrency: int) -> None:
        self._fatal: TraceOutcome | None = None
        self._teachers: list[tuple[Teacher, dict[str, Any] | None]] = []
        try:
            self._teachers = [(spec.build(name), spec.identity(name)) for name in spec.names]
        except UserError as error:
            # An exception here would reach the user as a worker that cannot be started.
            self._fatal = TraceOutcome(Status.FATAL, detail=str(error))
        self._ledger = Ledger(ledger_uri) if ledger_uri else None
        self._under_way = asyncio.Semaphore(concurrency)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of OUTCOMES, one for every question, in their order."""
        if self._ledger is not None:
            # A worker that died may have finished a part of this batch.
            await asyncio.to_thread(self._ledger.refresh)
        questions = [Question(**row) for row in batch.select(QUESTION_COLUMNS).to_pylist()]
        return outcome_table(questions, await asyncio.gather(*(self._trace(question) for question in questions)))

    async def _trace(self, question: Question) -> TraceOutcome:
        """What the first teacher says that does not decline, or else the last one."""
        async with self._under_way:
            outcome = self._fatal or TraceOutcome(Status.DECLINED)
            for teacher, identity in self._teachers:
                outcome = self._fatal or await self._asked_once(teacher, identity, question)
                if outcome.status != Status.DECLINED:
                    break
            if outcome.status == Status.FATAL:
                self._fatal = outcome
            return outcome

    async def _asked_once(self, teacher: Teacher, identity: dict[str, Any] | None, question: Question) -> TraceOutcome:
        """The outcome from the ledger, or a new one that the ledger holds before anybody sees it."""
        if self._ledger is None or identity is None:
            return await asked(teacher, question)
        key = request_key(question.question, identity)
        outcome = self._ledger.get(key)
        if outcome is None:
            outcome = await asked(teacher, question)
            if outcome.is_final:
                try:
                    await self._ledger.record(key, outcome)
                except OSError as error:
                    return TraceOutcome(Status.FATAL, detail=f"{self._ledger.uri}: cannot be written ({error})")
        return outcome


def outcome_table(questions: Sequence[Question], outcomes: Sequence[TraceOutcome]) -> pa.Table:
    """Outcomes as rows of OUTCOMES."""
    rows = [
        {"question_id": question.question_id, **asdict(outcome)}
        for question, outcome in zip(questions, outcomes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def stream(questions: pa.Table, spec: TeacherSpec, ledger_uri: str | None, pool: Pool) -> Iterator[dict[str, Any]]:
    """Rows of OUTCOMES as they come, one for every row of `questions`. Needs a Ray session."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours says more
    context.max_errored_blocks = 0
    batch_rows = max(1, -(-2 * pool.concurrency // _BATCHES_UNDER_WAY))
    # Blocks are what workers share out among themselves, and what is done again when one dies.
    block_rows = min(_BATCHES_UNDER_WAY * batch_rows, max(1, -(-questions.num_rows // pool.num_workers)))
    selected = questions.select(QUESTION_COLUMNS)
    blocks = [selected.slice(start, block_rows) for start in range(0, selected.num_rows, block_rows)]
    traced = ray.data.from_arrow(blocks).map_batches(
        TeacherWorker,
        fn_constructor_kwargs={"spec": spec, "ledger_uri": ledger_uri, "concurrency": pool.concurrency},
        batch_size=batch_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(pool.num_workers, len(blocks)), max_tasks_in_flight_per_actor=2),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )
    for batch in traced.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in cast(pa.Table, batch).to_pylist():
            if row["status"] == Status.FATAL:
                who = f"{row['teacher']}: " if row["teacher"] else ""
                raise UserError(f"{who}{row['detail']}; what was finished is kept, mend this and run again")
            yield row
