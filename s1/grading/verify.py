"""Verify a response to a row of any table that carries a question's columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from s1.grading import kinds, workers
from s1.grading.equality import MAX_ANSWER_CHARS, MAX_RESPONSE_CHARS, chosen, decided_by_rules, equivalent, same_text
from s1.grading.extract import denied, final_answer, response_part, unterminated
from s1.grading.normalise import plain

_LITERAL = r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?"
_NUMBER = re.compile(rf"\s*{_LITERAL}\s*")
# Signs that make what stands before them an open calculation: "14 + 52 =" repeats a question, it does not answer it.
_OPEN = re.compile(r"[-+*/x\u00d7^=]\s*\Z")


def correct(row: Mapping[str, Any], response: str | None) -> bool | None:
    """Whether `response` answers the question of `row` (columns question, answer, source, metadata).

    None where nothing can be said: without a reference, of a proof, and of a program that differs from the reference. A
    question of the gym is put to its own verifier, since many have more than one right answer and some allow only
    certain ways to write it. A choice is decided by its letters or the text of the option. Everything else is decided
    by `equivalent`. An empty response to a question that has a reference is wrong.
    """
    gold, response = row.get("answer"), response or ""
    if row.get("source") == "gym" and row.get("metadata"):
        return _gym_accepts(gold, json.loads(row["metadata"]), response)
    if gold is None:
        return None
    question = row.get("question") or ""
    kind = kinds.kind_of(question, gold)
    if kind == "choice":
        return _chooses(question, gold, response[-MAX_RESPONSE_CHARS:])
    if kind in ("code", "proof"):
        return _same_program(gold, response) or (None if response.strip() else False)
    return equivalent(gold, response)


def _same_program(gold: str, response: str) -> bool:
    return bool(gold.strip()) and kinds.program(response_part(response)) == kinds.program(gold)


def _chooses(question: str, gold: str, response: str) -> bool:
    """Whether the response names the letters of `gold`, or writes the text of that option."""
    response = response_part(response)
    if not response or unterminated(response):
        return False
    wanted, answer = kinds.letters(gold), final_answer(response)
    if len(answer) <= MAX_ANSWER_CHARS:  # in what is longer, brackets within brackets would take long
        answer = plain(answer)
    named = kinds.letters(answer)
    if named:
        return named == wanted
    if denied(answer):
        return False
    options = kinds.options(question)
    same = [letter for letter, text in options.items() if _same_option(text, answer)]
    if same:
        return frozenset(same) == wanted
    letter = chosen(answer)
    return letter is not None and wanted == frozenset([letter])


def _same_option(option: str, answer: str) -> bool:
    if max(len(option), len(answer)) > MAX_ANSWER_CHARS:
        return same_text(option, answer)
    return same_text(option, answer) or bool(decided_by_rules(option, answer))


def _gym_accepts(gold: str | None, metadata: Mapping[str, Any], response: str) -> bool:
    response = response_part(response[-MAX_RESPONSE_CHARS:])
    answer = final_answer(response)
    if not 0 < len(answer) <= MAX_ANSWER_CHARS or unterminated(response):
        return False
    if gold is not None and same_text(gold, answer):
        return True
    dataset, entry = metadata["source_dataset"], metadata["entry"]
    for text in dict.fromkeys((answer, plain(answer))):
        accepted = workers.verify_gym(dataset, entry, text)
        if accepted is None or accepted:  # what had no verdict in time would have none in another notation either
            return bool(accepted)
    return gold is not None and bool(_NUMBER.fullmatch(gold)) and _gives_number(gold, answer)


def _gives_number(gold: str, answer: str) -> bool:
    """Whether the last number that `answer` writes is `gold`, in whatever notation or sentence.

    The number has to be written: a sum that would come to it is the question again.
    """
    numbers = re.findall(_LITERAL, plain(answer))
    if not numbers or _OPEN.search(answer.rstrip(". ")) or denied(answer):
        return False
    return equivalent(gold, numbers[-1].rstrip(","))
