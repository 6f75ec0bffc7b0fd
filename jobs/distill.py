"""Have a teacher write a trace for every training question: QUESTIONS becomes TRACES.

    python -m jobs.distill --preset laptop
    python -m jobs.distill --teacher openai --openai.base-url http://127.0.0.1:8000/v1 --openai.model r1
    python -m jobs.distill --preset s1 --teacher gemini --max-usd 50 --dry-run

Runs on Ray Data. Paid answers are recorded in <run-dir>/_ledger before they are used, so a killed run continues where
it stopped and pays for nothing twice.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import Field

from actors import rate_limiter
from actors.teacher_pool import OUTCOMES, QUESTION_COLUMNS, Pool, outcome_table, stream
from jobs import capacity
from jobs.progress import Progress
from jobs.ray_session import ray_session
from jobs.runner import Context, Job, Outcome, command
from jobs.set_aside import SetAside
from jobs.spool import POSITION, Spool
from jobs.tally import LOST, Tally
from jobs.teacher_watch import Watch
from s1 import extensions, schema
from s1.artifacts import Manifest, Staging, join
from s1.config import under
from s1.errors import UserError
from s1.sources import records
from s1.sources.hub import Hub
from s1.teachers import registry, service
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.protocol import HANDED_ON, Question, Status
from s1.teachers.recorded import num_repeated
from s1.teachers.registry import TeacherOptions, TeacherSpec

ROWS_PER_FILE = 10_000
# Options that change how teachers are asked, not what they answer; what the bounds left out, `suffices` looks at. The
# ledger is none of them: another one may hold other answers. Nor is the engine of vllm, which may round differently.
HOW = ("pool", "max_usd", "max_lost", *under("openai", service.HOW), *under("gemini", service.HOW))


class DistillOptions(TeacherOptions):
    """Whom to ask, and what for."""

    num_questions: int | None = Field(
        default=None, ge=1, description="Ask only a random sample of this many training questions."
    )
    max_usd: float | None = Field(
        default=None, gt=0, description="Cap on the cost of this table, including what is already recorded."
    )
    max_lost: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of questions that may go unanswered, through temporary failures or the cap.",
    )
    ledger: str | None = Field(default=None, description="Folder of the ledger; by default <run-dir>/_ledger.")
    pool: Pool = Field(default=Pool(), description="Workers on Ray.")


def check(options: DistillOptions) -> None:
    """Raise UserError for what cannot work. Starts nothing and asks nobody."""
    registry.check(options)
    for name in registry.chosen(options):
        settings = registry.service(options, name)
        if settings is not None:
            service.check_cap(settings, name, options.max_usd)


def describe(options: DistillOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    """Whom is asked, for how many traces, and what that may cost."""
    questions = manifests.get("questions")
    known = questions.facts.get("num_train") if questions else None
    count = None if known is None else min(known, options.num_questions or known)
    names = registry.chosen(options)
    lines = [f"asks: {' then '.join(names)} for {count or '?'} traces, {options.pool.num_workers} worker(s)"]
    for name in names:
        settings = registry.service(options, name)
        if settings is not None:
            lines.append(service.estimate(settings, name, count))
    if options.max_usd is not None:
        lines.append(f"cap: ${options.max_usd:,.2f}")
    return lines


def run(options: DistillOptions, context: Context) -> Outcome:
    """Ask for what is not recorded yet, drop what is no trace, write the rest in the order of the questions."""
    questions = training_questions(options, context)
    aside = look_through_recorded(options)
    aside.tell("distill", context.staging)
    spec = registry.spec(options)
    ledger = Ledger(options.ledger or join(context.run_dir, "_ledger")) if spec.is_paid else None
    with Spool(OUTCOMES, ROWS_PER_FILE) as spool:
        tally = Tally(questions["question_id"].to_pylist(), spool)
        recorded = Recorded()
        if ledger is not None:
            ledger.check_writable()
            ledger.compact()  # what a killed run has left in many small files
            recorded = take_recorded(tally, questions, spec, ledger)
        num_recorded = tally.num_done
        waiting = questions.filter(pa.array([key not in tally for key in questions["question_id"].to_pylist()]))
        if waiting.num_rows:
            registry.check_reached(options, recorded.answered)
            if ledger is not None:
                print(_outlook(spec, num_recorded, waiting.num_rows), file=sys.stderr)
            with ray_session(*capacity.of_distill(options)):
                stopped = _ask(options, spec, waiting, tally, ledger, recorded)
            if ledger is not None:
                ledger.compact()
            check_stopped(options, tally, stopped, ledger)
        check_losses(options, tally)
        num_traces = _write(context.staging, questions, spool)
    facts = {"num_recorded": num_recorded, "num_asked": waiting.num_rows, "reasons": tally.reasons()}
    if aside.count:
        facts["recorded_set_aside"] = aside.count
    return Outcome(questions.num_rows, num_traces, tally.dropped(), round(tally.cost_usd, 6), facts)


def look_through_recorded(options: DistillOptions) -> SetAside:
    """Rows of a file of recorded traces that cannot be used; one line when several are about one question.

    Told here: what workers say nobody reads.
    """
    aside = SetAside()
    if "recorded" in registry.chosen(options) and options.recorded.path:
        repeated = num_repeated(options.recorded, aside.add)
        if repeated:
            line = f"distill: {options.recorded.path}: {repeated} row(s) repeat a question; its first row counts"
            print(line, file=sys.stderr)
    return aside


def _outlook(spec: TeacherSpec, num_recorded: int, num_waiting: int) -> str:
    """What is about to be asked, and what that is likely to cost."""
    line = f"distill: {num_recorded} recorded, {num_waiting} to ask"
    costs = [num_waiting * priced.expected_usd for priced in spec.services.values() if priced.is_priced]
    return f"{line}, about ${max(costs):,.2f}" if costs else line


def _ask(
    options: DistillOptions,
    spec: TeacherSpec,
    waiting: pa.Table,
    tally: Tally,
    ledger: Ledger | None,
    recorded: Recorded,
) -> str | None:
    """Ask about the rows of `waiting`; returns why the asking stopped before its end, if it did."""
    with Progress("distill", waiting.num_rows, "questions") as bar:
        if ledger is None:
            for row in stream(waiting, spec, None, options.pool):
                tally.add(row)
                bar.advance(1, tally.note())
            return None
        limiter = rate_limiter.start(
            spec.services, waiting.num_rows, options.max_usd, recorded.spent_usd, recorded.answered
        )
        with Watch(limiter, bar) as watch:
            for row in stream(waiting, spec, ledger.uri, options.pool, limiter):
                tally.add(row)
            numbers = watch.numbers()
        watch.end_if_told()
        return numbers.stopped


@dataclass(frozen=True)
class Recorded:
    """What earlier runs have recorded about a table's questions, of all teachers."""

    spent_usd: float = 0.0  # what was paid for in vain included
    answered: frozenset[str] = frozenset()  # teachers that have answered


def take_recorded(tally: Tally, questions: pa.Table, spec: TeacherSpec, ledger: Ledger) -> Recorded:
    """Count outcomes of the first teacher that an earlier run has paid for; returns what there is of all teachers.

    Those of the second one the workers look up themselves, after the first one has been asked.
    """
    first, *later = spec.names
    spent_usd, answered = 0.0, set[str]()
    ledger.refresh()
    for name in spec.names:
        identity = spec.identity(name)
        if identity is None:
            continue
        by_key: dict[str, list[Question]] = {}
        for batch in questions.select(QUESTION_COLUMNS).to_batches():
            for values in batch.to_pylist():
                by_key.setdefault(request_key(values["question"], identity), []).append(Question(**values))
        in_vain_usd = ledger.in_vain_usd(by_key)
        tally.spent(in_vain_usd)
        spent_usd += in_vain_usd
        for key, outcome in ledger.find(by_key):
            spent_usd += outcome.cost_usd
            answered.add(name)
            if name != first or (later and outcome.status in HANDED_ON):
                continue
            for row in outcome_table(by_key[key], [outcome] * len(by_key[key])).to_pylist():
                tally.add(row)
    return Recorded(spent_usd, frozenset(answered))


def training_questions(options: DistillOptions, context: Context) -> pa.Table:
    """The rows of QUESTIONS that a teacher may see. UserError when there is none, or when a question is there twice."""
    table = context.inputs["questions"].read(schema.QUESTIONS)
    schema.check_keys(table["question_id"].to_pylist(), context.inputs["questions"].uri)
    table = table.filter(pa.array([split == "train" for split in table["split"].to_pylist()], pa.bool_()))
    if options.num_questions is not None and options.num_questions < table.num_rows:
        # Keys are hashes: the smallest ones are a sample that stays the same when questions are added.
        sample = set(sorted(table["question_id"].to_pylist())[: options.num_questions])
        table = table.filter(pa.array([key in sample for key in table["question_id"].to_pylist()]))
    if not table.num_rows:
        raise UserError("no training question in this run; lower collect.num_test or collect more")
    return table


def check_stopped(options: DistillOptions, tally: Tally, stopped: str | None, ledger: Ledger | None) -> None:
    """UserError when the asking was stopped and more is left than may be given up."""
    left = tally.counts[Status.UNASKED]
    if stopped is None or ledger is None or tally.num_lost <= options.max_lost * tally.total:
        return
    raise UserError(
        f"{stopped}; {left} of {tally.total} questions are left, what was finished is kept in {ledger.uri}: run the "
        f"same command again to go on (with a higher --max-usd, if that was the reason), or accept what there is with "
        f"--max-lost {tally.lost_share}"
    )


def check_losses(options: DistillOptions, tally: Tally) -> None:
    """UserError when a question has no outcome, too many failed in a way that may pass, or there is no trace."""
    if tally.num_done < tally.total:
        raise UserError(
            f"{tally.total - tally.num_done} of {tally.total} questions came back without an outcome; what was "
            "finished is kept, run the same command again"
        )
    if tally.num_lost > options.max_lost * tally.total:
        raise UserError(
            f"{tally.num_lost} of {tally.total} requests failed repeatedly ({tally.main_loss()}); what was "
            f"finished is kept: run the same command again, or allow the loss with --max-lost {tally.lost_share}"
        )
    if not tally.counts[Status.OK]:
        said = "; ".join(f"{status}: {next(iter(why))}" for status, why in tally.reasons().items())
        raise UserError(
            f"{' then '.join(registry.chosen(options))} gave no trace for any of {tally.total} questions ({said})"
        )


def _write(staging: Staging, questions: pa.Table, spool: Spool) -> int:
    """Write the rows of TRACES in the order of the questions; returns how many."""
    num_traces = 0
    for number, outcomes in enumerate(spool.tables()):
        asked = questions.take(outcomes[POSITION])
        columns = [(asked if name in asked.column_names else outcomes).column(name) for name in schema.TRACES.names]
        table = pa.Table.from_arrays(columns, schema=schema.TRACES)
        staging.write_table(table, f"part-{number:05d}.parquet")
        num_traces += table.num_rows
    return num_traces


def outside(options: DistillOptions) -> object:
    """State of the recorded traces, and of the code of a teacher of the user's."""
    names = registry.chosen(options)
    code = {name: extensions.state(name) for name in names if extensions.is_reference(name)}
    recorded = records.state(options.recorded.path) if "recorded" in names else None
    return [recorded, code] if code else recorded


def on_hub(options: DistillOptions) -> Sequence[Hub]:
    """The recorded traces, when they lie on the hub."""
    return records.on_hub([options.recorded.path]) if "recorded" in registry.chosen(options) else ()


def suffices(options: DistillOptions, made: Manifest) -> bool:
    """Whether a table that was made under other bounds does under these.

    One that lacks traces, which another run may get, does under the same cap alone, and when so many may be missing.
    """
    num_lost = sum(made.dropped.get(status, 0) for status in LOST)
    return not num_lost or (num_lost <= options.max_lost * made.rows_in and made.config["max_usd"] == options.max_usd)


JOB = Job(
    name="distill",
    summary=(__doc__ or "").strip(),
    options=DistillOptions,
    inputs=("questions",),
    output="traces",
    run=run,
    check=check,
    describe=describe,
    outside=outside,
    on_hub=on_hub,
    how=HOW,
    suffices=suffices,
)

if __name__ == "__main__":
    command(JOB)
