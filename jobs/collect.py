"""Collect questions into QUESTIONS: generated tasks, files, or a data set of the hub.

python -m jobs.collect --preset laptop --source files --path questions.jsonl.gz
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.progress import Progress
from jobs.runner import Context, Job, Outcome, command
from jobs.set_aside import SetAside
from s1 import extensions, schema
from s1.artifacts import Manifest
from s1.config import Config
from s1.errors import UserError
from s1.sources import gym as tasks
from s1.sources import hub as data_sets
from s1.sources import paper, records
from s1.sources.mapping import Fields, RawQuestion, to_question
from s1.sources.records import Fault, Record
from s1.sources.table import Collected, collect

SOURCES = ("gym", "files", "hub", "paper")
ROWS_PER_FILE = 50_000


class CollectOptions(Config):
    """What to collect."""

    source: Annotated[str, extensions.one_of("sources", SOURCES)] = Field(
        "gym",
        description="Where the questions come from: gym, files, hub, paper (the 16 sources of s1, from the hub), or "
        "module:function of your own.",
    )
    seed: int = Field(0, description="Seed of what is generated, sampled and held out.")
    num_test: int = Field(0, ge=0, description="Questions per domain to hold out for the evaluation.")
    num_questions: int | None = Field(None, ge=1, description="Keep a random sample of at most this many questions.")
    expected: int | None = Field(None, ge=1, description="Number of rows to expect; a different number is reported.")
    sources: tuple[str, ...] = Field((), description="Source paper: read only these of the 16 sources.")
    compare_with_paper: bool = Field(
        False, description="Report which of the paper's sources have a different number of questions here."
    )
    on_fault: Literal["stop", "set_aside"] = Field(
        "stop", description="What to do with an unusable row: stop and name it, or set it aside and count it."
    )
    max_question_chars: int = Field(
        100_000, ge=1, description="Longest question, answer or solution; a longer one makes the row unusable."
    )
    path: str = Field("", description="Source files: a file, a folder or a glob (JSONL, JSON, CSV, Parquet, also .gz).")
    fields: Fields = Field(Fields(), description="Sources files and hub: which field holds what.")
    hub: data_sets.Hub = Field(data_sets.Hub(), description="Source hub: which data set.")
    gym: dict[str, dict[str, Any]] = Field(
        {}, description="Source gym: families with their count and reasoning-gym parameters."
    )


def check(options: CollectOptions) -> None:
    """Whether the source is there; a file is opened, its rows are read by `run`."""
    if extensions.is_reference(options.source):
        records.check(options.source)
    elif options.source == "gym":
        tasks.check(options.gym)
    elif options.source == "files":
        if not options.path:
            raise UserError("source files needs --path: a file, a folder or a glob")
        records.find(options.path)
    elif options.source == "paper":
        for name in options.sources:
            if name not in paper.SOURCES:
                raise UserError(f"sources: {name!r} is not one of the paper's: {', '.join(paper.SOURCES)}")
    elif not options.hub.name:
        raise UserError("source hub needs --hub.name: a data set such as simplescaling/s1K-1.1")


def describe(options: CollectOptions, _: Mapping[str, Manifest | None]) -> Sequence[str]:
    """One line: what is going to be read."""
    if extensions.is_reference(options.source):
        return [f"reads rows of {options.source}"]
    if options.source == "gym":
        counts = ", ".join(f"{name} {settings.get(tasks.COUNT)}" for name, settings in options.gym.items())
        return [f"generates: {counts}"]
    if options.source == "files":
        _fs, paths = records.find(options.path)
        return [f"reads files: {len(paths)} ({paths[0]}{', …' if len(paths) > 1 else ''})"]
    if options.source == "paper":
        chosen = _paper(options)
        return [f"reads {len(chosen)} sources of the paper, {sum(source.expected for source in chosen)} questions"]
    return [f"reads data set: {options.hub.name}, split {options.hub.split}"]


def run(options: CollectOptions, context: Context) -> Outcome:
    """Read, drop duplicates, mark what is held out, write."""
    aside = SetAside()
    on_fault = records.stop if options.on_fault == "stop" else aside.add
    with Progress("collect", _total(options), "questions") as bar:
        raw = _counted(_usable(_questions(options, on_fault), options.max_question_chars, on_fault), bar)
        collected = collect(raw, options.seed, options.num_test, options.num_questions)
    rows = collected.rows
    if not rows:
        why = f" ({aside.count} rows set aside; the first: {aside.lines[0]})" if aside.count else ""
        raise UserError(f"source {options.source}: no question in {options.path or 'it'}{why}; choose another one")
    for number, start in enumerate(range(0, len(rows), ROWS_PER_FILE)):
        table = schema.to_table(rows[start : start + ROWS_PER_FILE], schema.QUESTIONS)
        context.staging.write_table(table, f"part-{number:05d}.parquet")
    dropped = dict(collected.dropped)
    if aside.count:
        dropped["set aside"] = aside.count
        aside.tell("collect", context.staging)
    return Outcome(collected.num_met + aside.count, len(rows), dropped, facts=_facts(options, collected))


def _facts(options: CollectOptions, collected: Collected) -> dict[str, Any]:
    """What the report tells about the questions; deviations from what was expected are printed too."""
    splits = Counter(row["split"] for row in collected.rows)
    facts: dict[str, Any] = {
        "num_train": splits["train"],
        "num_test": splits["test"],
        "domains": dict(sorted(Counter(str(row["domain"] or "unknown") for row in collected.rows).items())),
    }
    if options.expected is not None and collected.num_met != options.expected:
        facts["count_differs"] = f"{collected.num_met} rows met, {options.expected} expected"
        print(f"collect: warning: {facts['count_differs']}", file=sys.stderr)
    if options.compare_with_paper or options.source == "paper":
        facts["sources"] = compared(collected, _paper(options))
        for name, counts in facts["sources"].items():
            if counts["found"] != counts["expected"]:
                print(
                    f"collect: warning: {name}: {counts['found']} questions, not {counts['expected']}", file=sys.stderr
                )
    return facts


def compared(collected: Collected, sources: Sequence[paper.Source]) -> dict[str, dict[str, int]]:
    """For every source how many different questions it gave, and how many the paper had from it."""
    counts: Counter[str | None] = Counter()
    for source, count in collected.sources.items():
        counts[paper.source_of(source)] += count
    found = {source.name: {"found": counts[source.name], "expected": source.expected} for source in sources}
    return found | ({"none of these": {"found": counts[None], "expected": 0}} if counts[None] else {})


def _paper(options: CollectOptions) -> list[paper.Source]:
    return [paper.SOURCES[name] for name in options.sources or paper.SOURCES]


def _questions(options: CollectOptions, on_fault: Fault) -> Iterator[RawQuestion]:
    if options.source == "gym":
        return tasks.questions(options.gym, options.seed)
    if options.source == "paper":
        found = (paper.questions(source, options.seed, on_fault) for source in _paper(options))
        return (question for questions in found for question in questions)
    if options.source == "hub":
        source = f"hub:{options.hub.name}"
        return _mapped(data_sets.records(options.hub), lambda _: source, options.fields, on_fault)
    if options.source != "files":
        return _mapped(records.read(options.source, on_fault), lambda _: options.source, options.fields, on_fault)
    found = records.read(options.path, on_fault)
    return _mapped(found, lambda record: f"files:{records.stem(record.file)}", options.fields, on_fault)


def _mapped(
    found: Iterator[Record], source: Callable[[Record], str], fields: Fields, on_fault: Fault
) -> Iterator[RawQuestion]:
    for record in found:
        try:
            yield to_question(record, fields, source(record))
        except UserError as error:
            on_fault(str(error))


def _usable(raw: Iterator[RawQuestion], max_chars: int, on_fault: Fault) -> Iterator[RawQuestion]:
    """Questions that a teacher can be asked."""
    for question in raw:
        texts = {"a question": question.question, "an answer": question.answer, "a solution": question.solution}
        too_long = [f"{name} of {len(text)}" for name, text in texts.items() if text and len(text) > max_chars]
        if too_long:
            on_fault(
                f"{question.where or question.source}: {too_long[0]} characters, at most {max_chars} are allowed "
                "(--max-question-chars)"
            )
        else:
            yield question


def _total(options: CollectOptions) -> int | None:
    return sum(settings[tasks.COUNT] for settings in options.gym.values()) if options.source == "gym" else None


def _counted(raw: Iterator[RawQuestion], bar: Progress) -> Iterator[RawQuestion]:
    for question in raw:
        bar.advance()
        yield question


def outside(options: CollectOptions) -> object:
    """State of the files, or of the code, that the questions come from."""
    if options.source == "files":
        return records.state(options.path)
    return records.state(options.source) if extensions.is_reference(options.source) else None


def on_hub(options: CollectOptions) -> Sequence[data_sets.Hub]:
    """The data set of source hub; of the paper's sources one part of each data set."""
    if options.source == "hub":
        return [options.hub]
    if options.source != "paper":
        return []
    parts = [part for source in _paper(options) for part in (*source.parts, source.leave_out, source.only) if part]
    return list({part.name: part for part in reversed(parts)}.values())


JOB = Job(
    name="collect",
    summary=(__doc__ or "").strip(),
    options=CollectOptions,
    inputs=(),
    output="questions",
    run=run,
    check=check,
    describe=describe,
    outside=outside,
    on_hub=on_hub,
)

if __name__ == "__main__":
    command(JOB)
