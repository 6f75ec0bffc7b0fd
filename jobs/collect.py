"""Collect questions into QUESTIONS: generated tasks, files, or a data set of the hub.

python -m jobs.collect --preset laptop --source files --path questions.jsonl.gz
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from jobs.progress import Progress
from jobs.runner import Context, Job, Outcome, command
from s1 import schema
from s1.artifacts import Manifest
from s1.config import Config
from s1.errors import UserError
from s1.sources import gym as tasks
from s1.sources import hub as data_sets
from s1.sources import records
from s1.sources.mapping import Fields, RawQuestion, to_question
from s1.sources.table import collect

ROWS_PER_FILE = 50_000


class CollectOptions(Config):
    """What to collect."""

    source: Literal["gym", "files", "hub"] = Field("gym", description="Where the questions come from.")
    seed: int = Field(0, description="Decides what is generated, sampled and held out.")
    num_test: int = Field(0, ge=0, description="Questions of every domain that are kept for the evaluation.")
    num_questions: int | None = Field(None, ge=1, description="Keep a random sample of at most so many questions.")
    expected: int | None = Field(None, ge=1, description="How many the source should give; another number is reported.")
    path: str = Field("", description="Source files: a file, a folder or a glob (JSONL, JSON, CSV, Parquet, also .gz).")
    fields: Fields = Field(Fields(), description="Sources files and hub: which field holds what.")
    hub: data_sets.Hub = Field(data_sets.Hub(), description="Source hub: which data set.")
    gym: dict[str, dict[str, Any]] = Field(
        {}, description="Source gym: families with their count and reasoning-gym parameters."
    )


def check(options: CollectOptions) -> None:
    """Whether the source is there; a file is opened, its rows are read by `run`."""
    if options.source == "gym":
        tasks.check(options.gym)
    elif options.source == "files":
        if not options.path:
            raise UserError("source files needs --path: a file, a folder or a glob")
        records.find(options.path)
    elif not options.hub.name:
        raise UserError("source hub needs --hub.name: a data set such as simplescaling/s1K-1.1")


def describe(options: CollectOptions, _: Mapping[str, Manifest | None]) -> Sequence[str]:
    """One line: what is going to be read."""
    if options.source == "gym":
        counts = ", ".join(f"{name} {settings.get(tasks.COUNT)}" for name, settings in options.gym.items())
        return [f"generates: {counts}"]
    if options.source == "files":
        _fs, paths = records.find(options.path)
        return [f"reads files: {len(paths)} ({paths[0]}{', …' if len(paths) > 1 else ''})"]
    return [f"reads data set: {options.hub.name}, split {options.hub.split}"]


def run(options: CollectOptions, context: Context) -> Outcome:
    """Read, drop duplicates, mark what is held out, write."""
    with Progress("collect", _total(options), "questions") as bar:
        raw = _counted(_questions(options), bar)
        collected = collect(raw, options.seed, options.num_test, options.num_questions)
    rows = collected.rows
    if not rows:
        raise UserError(f"source {options.source}: no question in {options.path or 'it'}; choose another one")
    for number, start in enumerate(range(0, len(rows), ROWS_PER_FILE)):
        table = schema.to_table(rows[start : start + ROWS_PER_FILE], schema.QUESTIONS)
        context.staging.write_table(table, f"part-{number:05d}.parquet")
    splits = Counter(row["split"] for row in rows)
    facts: dict[str, Any] = {
        "num_train": splits["train"],
        "num_test": splits["test"],
        "domains": dict(sorted(Counter(str(row["domain"] or "unknown") for row in rows).items())),
    }
    if options.expected is not None and collected.num_met != options.expected:
        facts["count_differs"] = f"{collected.num_met} rows met, {options.expected} expected"
        print(f"collect: warning: {facts['count_differs']}", file=sys.stderr)
    return Outcome(rows_in=collected.num_met, rows_out=len(rows), dropped=collected.dropped, facts=facts)


def _questions(options: CollectOptions) -> Iterator[RawQuestion]:
    if options.source == "gym":
        return tasks.questions(options.gym, options.seed)
    if options.source == "hub":
        source = f"hub:{options.hub.name}"
        return (to_question(record, options.fields, source) for record in data_sets.records(options.hub))
    return (
        to_question(record, options.fields, f"files:{records.stem(record.file)}")
        for record in records.read(options.path)
    )


def _total(options: CollectOptions) -> int | None:
    return sum(settings[tasks.COUNT] for settings in options.gym.values()) if options.source == "gym" else None


def _counted(raw: Iterator[RawQuestion], bar: Progress) -> Iterator[RawQuestion]:
    for question in raw:
        bar.advance()
        yield question


JOB = Job(
    name="collect",
    summary=(__doc__ or "").strip(),
    options=CollectOptions,
    inputs=(),
    output="questions",
    run=run,
    check=check,
    describe=describe,
    outside=lambda options: records.state(options.path) if options.source == "files" else None,
)

if __name__ == "__main__":
    command(JOB)
