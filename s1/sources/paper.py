"""The 16 sources of the paper (its table 7), each with where it lies on the hub, how its rows become questions, and how
many questions the paper had from it. The choices (which splits, which rows) are those of the reference's collection.

Two sources were sampled there in ways that were never published (crosswords, SciEval): here a seeded sample of the same
size is taken. OlympiadBench questions get their context, which the reference left out.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from s1.errors import UserError
from s1.hashing import question_id
from s1.sources import hub, records
from s1.sources.hub import Hub
from s1.sources.mapping import RawQuestion, as_text
from s1.sources.records import Fault, Record

Adapter = Callable[[Mapping[str, Any], str], RawQuestion | None]  # (row, data set) -> question; None: not chosen


@dataclass(frozen=True)
class Source:
    """One source of the paper."""

    name: str
    parts: tuple[Hub, ...]
    adapt: Adapter
    expected: int  # different questions
    patterns: tuple[str, ...]  # of the reference's `source_type`
    sampled: bool = False  # the paper took `expected` of many
    leave_out: Hub | None = None  # questions that are kept for the evaluation
    only: Hub | None = None  # questions that were chosen one by one, where `adapt` does not choose by itself


def _parts(name: str, configs: Iterable[str | None], *splits: str) -> tuple[Hub, ...]:
    return tuple(Hub(name=name, config=config, split=split) for config in configs for split in splits)


def _field(row: Mapping[str, Any], name: str) -> str | None:
    if name not in row:
        raise UserError(f"no field {name!r}; the fields are {', '.join(sorted(row))}")
    return as_text(row[name])


def _made(
    row: Mapping[str, Any],
    source: str,
    question: str,
    answer: str | None,
    solution: str | None,
    domain: str | None = None,
) -> RawQuestion:
    return RawQuestion(_field(row, question) or "", answer, f"hub:{source}", domain, solution)


def _numina(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, f"{name}/{row['source']}", "problem", None, _field(row, "solution"))


def _math(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, f"{name}/{row['subject']}", "problem", as_text(row.get("answer")), _field(row, "solution"))


def _olympic_arena(row: Mapping[str, Any], name: str) -> RawQuestion | None:
    if row["language"] != "EN" or row["modality"] != "text-only":
        return None
    return _made(row, f"{name}/{row['subject']}", "problem", _short(row.get("answer")), _field(row, "solution"))


def _omni(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, name, "problem", as_text(row.get("answer")), _field(row, "solution"))


def _agieval(row: Mapping[str, Any], name: str) -> RawQuestion | None:
    if name.endswith("math_agieval") and row.get("level") != 5:
        return None
    parts = [as_text(row.get(part)) for part in ("passage", "question", "options")]
    question = "\n".join(part for part in parts if part)
    answer = as_text(row.get("answer")) or as_text(row.get("label"))
    return RawQuestion(question, answer, f"hub:{name}", None, as_text(row.get("solution")))


_CLUE, _ANSWER = re.compile(r"### Clue:\s*(.*)", re.DOTALL), re.compile(r"### Answer:\s*(.*?)\s*(?:### |\Z)", re.DOTALL)


def _crossword(row: Mapping[str, Any], name: str) -> RawQuestion:
    clue, answer = _CLUE.search(_field(row, "input") or ""), _ANSWER.search(_field(row, "output") or "")
    if clue is None:
        raise UserError("field 'input' holds no '### Clue:'")
    question = f"Solve the clue of a crossword; the number of letters stands in brackets.\n\n{clue[1].strip()}"
    return RawQuestion(question, answer[1] if answer else None, f"hub:{name}", None, as_text(row["output"]))


def _olympiad_bench(row: Mapping[str, Any], name: str) -> RawQuestion:
    source = f"{name.rpartition('/')[0]}/{row['question_type']}/{row['subject']}"
    context, question = as_text(row.get("context")), _field(row, "question") or ""
    finals, solutions = row.get("final_answer") or [], row.get("solution") or []
    answer = as_text(finals[0]) if len(finals) == 1 else None
    text = f"{context}\n\n{question}" if context else question
    return RawQuestion(text, answer, f"hub:{source}", None, as_text(solutions[0]) if solutions else None)


def _aime(row: Mapping[str, Any], name: str) -> RawQuestion | None:
    year = int(str(row.get("Year") or str(row["ID"]).partition("-")[0]))
    return _made(row, name, "Question", _field(row, "Answer"), None) if year <= 2021 else None


def _theorem_qa(row: Mapping[str, Any], name: str) -> RawQuestion | None:
    if row.get("Picture") is not None:
        return None
    return _made(row, f"{name}/{row['Answer_type']}", "Question", _field(row, "Answer"), None)


def _usaco(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, name, "question", None, as_text(row.get("solution")))


def _jee(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, f"{name}/{row['subject']}", "question", _field(row, "gold"), None)


def _gpqa(row: Mapping[str, Any], name: str) -> RawQuestion:
    answer, solution = _field(row, "Correct Answer"), as_text(row.get("Explanation"))
    return _made(row, name.rpartition("/")[0], "Question", answer, solution)


def _sci_eval(row: Mapping[str, Any], name: str) -> RawQuestion | None:
    if not row.get("answer"):
        return None
    question = (_field(row, "question") or "").partition("\n\nAnswer:")[0]
    answer = row["answer"][0] if isinstance(row["answer"], list) else row["answer"]
    source = f"{name}/{row['category']}/{row['type']}/{row['task_name']}"
    return RawQuestion(question.strip(), as_text(answer), f"hub:{source}", None, None)


def _question_solution(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, name, "question", None, _field(row, "solution"))


def _teaser(row: Mapping[str, Any], name: str) -> RawQuestion:
    return _made(row, name, "Question", _short(row["Answer"]), as_text(row["Answer"]))


def _live_code(row: Mapping[str, Any], name: str) -> RawQuestion | None:
    release = _LIVE_FILES[name.rpartition("/")[2]]
    source = f"LiveCodeBench/{release}"
    return _made(row, source, "question_content", None, None) if row["difficulty"] == "hard" else None


def _short(value: Any) -> str | None:
    """A final answer, not a text."""
    text = as_text(value)
    return text if text is not None and len(text) <= 200 and "\n" not in text else None


_ARENA = ("Math", "Physics", "Chemistry", "Biology", "Geography", "Astronomy", "CS")
_AGI = ("sat_en", "sat_math", "lsat_ar", "lsat_lr", "lsat_rc", "logiqa", "aqua_rat", "math_agieval")
_OLYMPIAD = ("OE_TO_maths_en_COMP", "OE_TO_physics_en_COMP", "TP_TO_maths_en_COMP", "TP_TO_physics_en_COMP")
_LIVE = "hf://datasets/livecodebench/code_generation_lite/"
_LIVE_FILES = {"test.jsonl": "release_v1", "test2.jsonl": "release_v2", "test3.jsonl": "release_v3"}

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "NuminaMATH",
            (Hub(name="AI-MO/NuminaMath-CoT"),),
            _numina,
            30_660,
            ("AI-MO/NuminaMath*",),
            only=Hub(name="qfq/numinamath_500"),
        ),
        Source("MATH", (Hub(name="simplescaling/openaimath"),), _math, 11_999, ("*/openaimath/*", "*/openaimath")),
        Source(
            "OlympicArena",
            _parts("GAIR/OlympicArena", _ARENA, "test", "val"),
            _olympic_arena,
            4_250,
            ("GAIR/Olympic*",),
        ),
        Source("OmniMath", (Hub(name="KbsdJames/Omni-MATH", split="test"),), _omni, 4_238, ("KbsdJames/Omni-MATH*",)),
        Source("AGIEval", _parts("baber/agieval", _AGI, "test", "few_shot"), _agieval, 2_385, ("baber/agieval*",)),
        Source("xword", (Hub(name="0xharib/xword1"),), _crossword, 999, ("0xharib/xword*",), sampled=True),
        Source(
            "OlympiadBench", _parts("Hothan/OlympiadBench", _OLYMPIAD, "train"), _olympiad_bench, 896, ("Hothan/Olym*",)
        ),
        Source("AIME", (Hub(name="di-zhang-fdu/AIME_1983_2024"),), _aime, 890, ("*AIME_1983_2024*",)),
        Source(
            "TheoremQA", (Hub(name="TIGER-Lab/TheoremQA", split="test"),), _theorem_qa, 747, ("TIGER-Lab/Theorem*",)
        ),
        Source("USACO", (Hub(name="codegenning/usacobench_formatted", split="test"),), _usaco, 519, ("*/usacobench*",)),
        Source("JEEBench", (Hub(name="daman1209arora/jeebench", split="test"),), _jee, 515, ("*/jeebench*",)),
        Source(
            "GPQA",
            (Hub(name="Idavidrein/gpqa", config="gpqa_extended"),),
            _gpqa,
            348,
            ("Idavidrein/gpqa*",),
            leave_out=Hub(name="Idavidrein/gpqa", config="gpqa_diamond"),
        ),
        Source(
            "SciEval",
            _parts("OpenDFM/SciEval", (None,), "test", "validation"),
            _sci_eval,
            227,
            ("OpenDFM/SciEval*",),
            sampled=True,
        ),
        Source("s1-prob", (Hub(name="simplescaling/s1-prob"),), _question_solution, 182, ("*/s1-prob", "*/stats_qual")),
        Source(
            "LiveCodeBench",
            tuple(Hub(name="json", files=_LIVE + name) for name in _LIVE_FILES),
            _live_code,
            151,
            ("LiveCodeBench*",),
        ),
        Source("s1-teasers", (Hub(name="simplescaling/s1-teasers"),), _teaser, 23, ("*/s1-teasers", "*/quant")),
    )
}


def source_of(source_type: str) -> str | None:
    """The paper's source that a `source` or `source_type` belongs to."""
    name = source_type.removeprefix("hub:")
    return next(
        (key for key, source in SOURCES.items() if any(fnmatch.fnmatchcase(name, p) for p in source.patterns)), None
    )


def questions(source: Source, seed: int, on_fault: Fault = records.stop) -> Iterator[RawQuestion]:
    """Questions of one source. UserError when it cannot be read."""
    chosen = _chosen(source, on_fault)
    if not source.sampled:
        yield from chosen
        return
    by_id = {question_id(f"{seed}\n{question.question}"): question for question in chosen}
    yield from (by_id[key] for key in sorted(by_id)[: source.expected])


def _chosen(source: Source, on_fault: Fault) -> Iterator[RawQuestion]:
    left_out = _ids(source.leave_out)
    only = _ids(source.only)
    for part in source.parts:
        name = part.files or "/".join(filter(None, (part.name, part.config)))
        for record in hub.records(part):
            question = _adapted(source, record, name, on_fault)
            if question is None or (left_out and question_id(question.question) in left_out):
                continue
            # All of NuminaMATH's forum questions, and of the rest those that were chosen.
            if only and not question.source.endswith("/aops_forum") and question_id(question.question) not in only:
                continue
            yield question


def _adapted(source: Source, record: Record, name: str, on_fault: Fault) -> RawQuestion | None:
    try:
        found = source.adapt(record.values, name)
    except (UserError, KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        on_fault(f"{record.where}: not as {source.name} should be ({reason})")
        return None
    if found is not None and not found.question.strip():
        on_fault(f"{record.where}: no question (the field is empty; fill or remove the row)")
        return None
    return found if found is None else replace(found, question=found.question.strip())


def _ids(part: Hub | None) -> set[str]:
    """Keys of the questions of a data set, whatever its field for them is called."""
    names = ("question", "problem", "Question")
    rows = hub.records(part) if part is not None else ()
    return {question_id(str(record.values[name])) for record in rows for name in names if record.values.get(name)}
