"""Verify a response to a row of any table that carries a question's columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from s1.grading import workers
from s1.grading.equality import MAX_ANSWER_CHARS, MAX_RESPONSE_CHARS, equivalent, same_text
from s1.grading.extract import final_answer, response_part, unterminated
from s1.grading.normalise import plain

_LITERAL = r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?"
_NUMBER = re.compile(rf"\s*{_LITERAL}\s*")
# Signs that make what stands before them an open calculation: "14 + 52 =" repeats a question, it does not answer it.
_OPEN = re.compile(r"[-+*/x\u00d7^=]\s*\Z")


def correct(row: Mapping[str, Any], response: str | None) -> bool | None:
    """Whether `response` answers the question of `row` (columns answer, source, metadata); None without a reference.

    A question of the gym is put to its own verifier, since many have more than one right answer and some allow only
    certain ways to write it. Everything else is decided by `equivalent`. An empty response to a question that has a
    reference is wrong.
    """
    gold, response = row.get("answer"), response or ""
    if row.get("source") == "gym" and row.get("metadata"):
        return _gym_accepts(gold, json.loads(row["metadata"]), response)
    return None if gold is None else equivalent(gold, response)


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
    return bool(numbers) and not _OPEN.search(answer.rstrip(". ")) and equivalent(gold, numbers[-1].rstrip(","))
