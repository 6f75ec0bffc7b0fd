"""Benchmarks that a user brings: files, data sets of the hub, or rows of a function.

None of them is shipped: their licences differ, and some ask not to be published in plain text. What is known here is
where each is found, how its records read and what an answer to it looks like.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from s1.errors import UserError
from s1.hashing import fingerprint
from s1.sources import hub, mapping, records, table
from s1.sources.mapping import RawQuestion
from s1.sources.records import Record

Answers = Literal["integer", "choice", "expression"]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Spec:
    """A benchmark that is known by name.

    The final answer of a response is its last \\boxed{}, else what follows "Answer:" (`s1.grading.extract`). The paper
    asks the bare question (section 4); only a choice needs more, and gets its options and `prompt`.
    """

    name: str
    dataset: hub.Hub
    answers: Answers
    num_questions: int
    correct: str | None = None  # of a choice: field with the right option
    wrong: tuple[str, ...] = ()  # fields with the wrong ones
    prompt: str = ""


def _hub(name: str, split: str, config: str | None = None) -> hub.Hub:
    return hub.Hub(name=name, split=split, config=config)


SPECS = {
    spec.name: spec
    for spec in (
        Spec("aime24", _hub("HuggingFaceH4/aime_2024", "train"), "integer", 30),
        Spec("aime25", _hub("math-ai/aime25", "test"), "integer", 30),
        Spec("amc23", _hub("math-ai/amc23", "test"), "integer", 40),
        Spec("math500", _hub("HuggingFaceH4/MATH-500", "test"), "expression", 500),
        Spec("gsm8k", _hub("openai/gsm8k", "test", "main"), "integer", 1319),
        Spec(
            "gpqa_diamond",
            _hub("Idavidrein/gpqa", "train", "gpqa_diamond"),
            "choice",
            198,
            correct="Correct Answer",
            wrong=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
            prompt="Answer with the letter of the right option.",
        ),
    )
}


@dataclass(frozen=True)
class Benchmark:
    """What one reference stands for: a known benchmark, one's own copy of it, or a table of questions."""

    name: str
    reference: str | None  # of records; None: the data set of the spec
    spec: Spec | None


def parse(text: str) -> Benchmark:
    """`aime24`, `aime24=my/copy.jsonl`, `questions.jsonl`, `quiz=questions.jsonl`, `hub:owner/name[:split]` or
    `module:function`, each also behind `NAME=`.

    UserError when it is neither a known name nor anything that can be read, or when files could not bear its name.
    """
    name, equals, reference = text.partition("=")
    if not equals:
        if text in SPECS:
            return Benchmark(text, None, SPECS[text])
        name, reference = benchmark_name(text), text
    if not name or not reference:
        raise UserError(f"benchmark {text!r}: must be NAME, PATH or NAME=PATH")
    if re.search(r"[\s/\\()\[\]{}<>]", name):
        raise UserError(
            f"benchmark {text!r}: files bear its name, and {name!r} has a space, slash or bracket; give another one: "
            "NAME=PATH"
        )
    return Benchmark(name, reference, SPECS.get(name) if equals else None)


def check(text: str, fields: mapping.Fields) -> None:
    """Raise UserError when `text` cannot be a benchmark: no such file, or no row with an answer.

    Files are read up to their first answer; nothing is downloaded.
    """
    found = parse(text)
    if found.reference is None or found.reference.startswith(records.HUB):
        return
    try:
        records.check(found.reference)
    except UserError as error:
        known = ", ".join(SPECS)
        raise UserError(f"benchmark {text!r}: {error}; the benchmarks that are known by name are {known}") from error
    if not any(raw.answer for raw in _questions(records.read(found.reference), found, fields)):
        raise UserError(_unanswered(text))


def check_hub(text: str, fields: mapping.Fields) -> None:
    """Raise UserError when `text` is a data set of the hub that is missing, gated or without answers; it is read."""
    found = parse(text)
    if found.reference is None or found.reference.startswith(records.HUB):
        load(text, fields)


def source(text: str) -> str:
    """Where the questions of the benchmark are read: a reference of records."""
    found = parse(text)
    return found.reference or _reference(found.spec)


def is_among(text: str, references: Iterable[str]) -> bool:
    """Whether `references` of records hold the benchmark or, as far as names tell, what it is a copy of."""
    known = frozenset[object]().union(*map(records.places, references))
    found = parse(text)
    copies = {source(text)} | ({_reference(found.spec)} if found.spec is not None else set())
    return any(records.places(copy) <= known for copy in copies)


def _reference(spec: Spec | None) -> str:
    assert spec is not None, "a name without a reference is one that is known"
    name = "/".join(filter(None, (spec.dataset.name, spec.dataset.config)))
    return f"{records.HUB}{name}:{spec.dataset.split}"


def state(text: str) -> object:
    """Changes when a file of the benchmark does, or what is known about it."""
    found = parse(text)
    return [fingerprint(str(found.spec)), [] if found.reference is None else records.state(found.reference)]


def load(text: str, fields: mapping.Fields) -> list[dict[str, Any]]:
    """The rows of QUESTIONS of one benchmark.

    The domain is the benchmark's name, so that its accuracy can be told from that of others. UserError when no row has
    a reference answer: nothing could be graded. Another number of questions than a known benchmark has is told.
    """
    found = parse(text)
    raw = _questions(records.read(source(text)), found, fields)
    rows: list[dict[str, Any]] = table.collect(raw, seed=0, num_test=0).rows
    if not any(row["answer"] for row in rows):
        raise UserError(_unanswered(text))
    if found.spec is not None and len(rows) != found.spec.num_questions:
        print(
            f"benchmark {text!r}: {len(rows)} questions, {found.name} has {found.spec.num_questions}", file=sys.stderr
        )
    return [{**row, "domain": found.name, "split": "test"} for row in rows]


def _unanswered(text: str) -> str:
    return f"benchmark {text!r}: no row has an answer, nothing could be graded; name its field with --fields.answer"


def _questions(read: Iterator[Record], benchmark: Benchmark, fields: mapping.Fields) -> Iterator[RawQuestion]:
    source, spec = f"benchmark:{benchmark.name}", benchmark.spec
    for record in read:
        if spec is not None and spec.correct is not None and spec.correct in record.values:
            yield _choice(record, spec, fields, source)
            continue
        raw = mapping.to_question(record, fields, source)
        _check_answer(record, raw.answer, benchmark)
        yield raw


def _check_answer(record: Record, answer: str | None, benchmark: Benchmark) -> None:
    """UserError when a copy of a known benchmark has an answer of another kind: it is not that benchmark."""
    spec = benchmark.spec
    if spec is None or answer is None:
        return
    letter = answer.strip().strip("()").upper()
    fits = {
        "integer": re.fullmatch(r"-?[\d,]+(?:\.0+)?", answer.strip().strip("$")) is not None,
        "choice": len(letter) == 1 and letter in LETTERS,
        "expression": True,
    }[spec.answers]
    if not fits:
        kind = {"integer": "a whole number", "choice": "the letter of an option"}[spec.answers]
        raise UserError(
            f"{record.where}: {spec.name} answers are {kind}, not {answer[:40]!r}; name another field with "
            "--fields.answer, or the table without the benchmark's name"
        )


def _choice(record: Record, spec: Spec, fields: mapping.Fields, source: str) -> RawQuestion:
    """A question with its options in an order that follows from the question; the answer is a letter."""
    missing = [name for name in (spec.correct, *spec.wrong) if not mapping.as_text(record.values.get(name or ""))]
    if missing:
        raise UserError(f"{record.where}: no field {missing[0]!r}, which {spec.name} has; give its original files")
    bare = mapping.to_question(record, fields, source)
    options = [str(mapping.as_text(record.values[name])) for name in (str(spec.correct), *spec.wrong)]
    order = random.Random(bare.question).sample(range(len(options)), len(options))
    listed = "\n".join(f"({LETTERS[place]}) {options[option]}" for place, option in enumerate(order))
    text = f"{bare.question}\n\n{listed}\n\n{spec.prompt}"
    return RawQuestion(text, LETTERS[order.index(0)], source, None, None)


def benchmark_name(reference: str) -> str:
    """What a table is called: the name of its file or data set."""
    if reference.startswith(records.HUB):
        return reference.removeprefix(records.HUB).partition(":")[0].rpartition("/")[2]
    return records.stem(reference)
