"""Teachers on Ray Data: questions stream in, classified outcomes stream out, what was paid for is recorded first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

import pyarrow as pa
from pydantic import Field

from actors.gate import ActorGate, Connection
from s1.config import Config
from s1.errors import UserError
from s1.teachers.asking import Keep, ask_patiently
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.ledger_files import OUTCOME
from s1.teachers.protocol import HANDED_ON, Question, Status, Teacher, TraceOutcome, asked
from s1.teachers.registry import TeacherName, TeacherSpec
from s1.teachers.service import Service

OUTCOMES = pa.schema([("question_id", pa.string()), *OUTCOME])
QUESTION_COLUMNS = [field.name for field in fields(Question)]
# A task of Ray Data ends with its slowest question. Tasks of a few questions, more of them at once than have to be
# under way, keep a worker busy all the same; what costs nothing comes in larger ones.
_TASK_ROWS = 8
_FREE_TASK_ROWS = 256
_TASKS_PER_NEEDED = 3


class Pool(Config):
    """How many workers there are, and what each of them takes."""

    num_workers: int = Field(default=1, ge=1, description="Number of workers, each with its own teacher.")
    num_cpus: float = Field(default=0.5, ge=0, description="CPUs that Ray sets aside for a worker.")
    num_gpus: float | None = Field(
        default=None,
        ge=0,
        description="GPUs of a worker; by default as many as the teacher vllm shares its model among.",
    )
    concurrency: int = Field(default=64, ge=1, description="Questions under way at a time on a worker.")


@dataclass(frozen=True)
class _Chosen:
    """One of the teachers of a worker."""

    teacher: Teacher
    identity: dict[str, Any] | None  # None: nothing that would have to be recorded
    service: Service | None  # None: no permits needed
    gate: ActorGate | None


class TeacherWorker:
    """Teachers on a worker. Ray Data calls it with batches of questions, several at a time, on one event loop."""

    def __init__(self, spec: TeacherSpec, ledger_uri: str | None, concurrency: int, limiter: Any = None) -> None:
        self._fatal: TraceOutcome | None = None
        self._has_told = False  # everybody of that
        self._connection = Connection(limiter) if limiter is not None else None
        self._chosen: list[_Chosen] = []
        self._ledger: Ledger | None = None
        try:
            self._ledger = Ledger(ledger_uri) if ledger_uri else None
            self._chosen = [self._choose(spec, name) for name in spec.names]
        except UserError as error:
            # An exception here would reach the user as a worker that cannot be started.
            self._fatal = TraceOutcome(Status.FATAL, detail=str(error))
        self._under_way = asyncio.Semaphore(concurrency)
        self._draw = random.Random()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of OUTCOMES, one for every question, in their order."""
        if self._connection is not None:
            self._connection.start()
        if self._ledger is not None and self._fatal is None:
            try:
                # A worker that died may have finished a part of this batch.
                await asyncio.to_thread(self._ledger.refresh)
            except UserError as error:
                self._fatal = self._fatal or TraceOutcome(Status.FATAL, detail=str(error))
        questions = [Question(**row) for row in batch.select(QUESTION_COLUMNS).to_pylist()]
        outcomes = await asyncio.gather(*(self._trace(question) for question in questions))
        if self._connection is not None:
            await self._connection.tell()
        return outcome_table(questions, outcomes)

    def _choose(self, spec: TeacherSpec, name: TeacherName) -> _Chosen:
        service = spec.service(name)
        gate = ActorGate(self._connection, name) if self._connection is not None and service is not None else None
        return _Chosen(spec.build(name), spec.identity(name), service, gate)

    async def _trace(self, question: Question) -> TraceOutcome:
        """What the first teacher says that does not hand the question on, or else the last one; the cost is that of
        all who were asked.
        """
        async with self._under_way:
            outcome, is_local = self._fatal or TraceOutcome(Status.DECLINED), False
            cost_usd = 0.0
            for chosen in self._chosen:
                outcome = self._fatal or await self._asked_once(chosen, question)
                cost_usd += outcome.cost_usd
                is_local = chosen.gate is None and outcome.status != Status.UNASKED
                if outcome.status not in HANDED_ON:
                    break
            if outcome.status == Status.FATAL:
                self._fatal = self._fatal or outcome
                if self._connection is not None and not self._has_told:
                    self._has_told = True
                    await self._connection.call("stop", outcome.detail)
            if self._connection is not None:
                self._connection.finished(outcome, is_local=is_local)
            return replace(outcome, cost_usd=cost_usd)

    async def _asked_once(self, chosen: _Chosen, question: Question) -> TraceOutcome:
        """The outcome from the ledger, or a new one that the ledger holds before anybody sees it."""
        if self._ledger is None or chosen.identity is None:
            return await self._ask(chosen, question, _kept)
        ledger, key = self._ledger, request_key(question.question, chosen.identity)

        async def keep(outcome: TraceOutcome) -> TraceOutcome:
            try:
                await ledger.record(key, question.question, outcome)
            except OSError as error:
                return TraceOutcome(Status.FATAL, detail=f"{ledger.uri}: cannot be written ({error})")
            return outcome

        try:
            recorded = await asyncio.to_thread(ledger.get, key) if key in ledger else None
        except UserError as error:
            return TraceOutcome(Status.FATAL, detail=str(error))
        return recorded or await self._ask(chosen, question, keep)

    async def _ask(self, chosen: _Chosen, question: Question, keep: Keep) -> TraceOutcome:
        if chosen.gate is not None and chosen.service is not None:
            return await ask_patiently(chosen.teacher, question, chosen.gate, chosen.service, self._draw, keep)
        if self._connection is not None and self._connection.stopped is not None:
            return TraceOutcome(Status.UNASKED, detail=self._connection.stopped.reason)
        outcome = await asked(chosen.teacher, question)
        return await keep(outcome) if outcome.is_recorded else outcome


async def _kept(outcome: TraceOutcome) -> TraceOutcome:
    """For what costs nothing to repeat."""
    return outcome


def outcome_table(questions: Sequence[Question], outcomes: Sequence[TraceOutcome]) -> pa.Table:
    """Outcomes as rows of OUTCOMES."""
    rows = [
        {"question_id": question.question_id, **asdict(outcome)}
        for question, outcome in zip(questions, outcomes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def stream(
    questions: pa.Table, spec: TeacherSpec, ledger_uri: str | None, pool: Pool, limiter: Any = None
) -> Iterator[dict[str, Any]]:
    """Rows of OUTCOMES as they come, one for every row of `questions`. Needs a Ray session.

    UserError when one of them is FATAL; with a limiter, which that has stopped, only after what was under way is done.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours says more
    context.max_errored_blocks = 0
    task_rows = _TASK_ROWS if spec.is_paid else _FREE_TASK_ROWS
    # Blocks are what workers share out among themselves, and what is done again when one dies.
    block_rows = min(task_rows, max(1, -(-questions.num_rows // pool.num_workers)))
    num_tasks = -(-_TASKS_PER_NEEDED * pool.concurrency // block_rows) if spec.is_paid else 2
    selected = questions.select(QUESTION_COLUMNS)
    blocks = [selected.slice(start, block_rows) for start in range(0, selected.num_rows, block_rows)]
    traced = ray.data.from_arrow(blocks).map_batches(
        TeacherWorker,
        fn_constructor_kwargs={
            "spec": spec,
            "ledger_uri": ledger_uri,
            "concurrency": pool.concurrency,
            "limiter": limiter,
        },
        batch_size=block_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=min(pool.num_workers, len(blocks)),
            max_tasks_in_flight_per_actor=num_tasks + 1,
            max_concurrent_calls_per_actor=num_tasks,
        ),
        num_cpus=pool.num_cpus,
        num_gpus=spec.num_gpus if pool.num_gpus is None else pool.num_gpus,
    )
    fatal: dict[str, Any] | None = None
    for batch in traced.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in cast(pa.Table, batch).to_pylist():
            if row["status"] != Status.FATAL:
                yield row
            else:
                fatal = fatal or row
        if fatal is not None and limiter is None:  # nothing that is paid for is under way
            break
    if fatal is not None:
        who = f"{fatal['teacher']}: " if fatal["teacher"] else ""
        raise UserError(f"{who}{fatal['detail']}; what was finished is kept, mend this and run again")
