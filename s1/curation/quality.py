"""What is wrong with a question or its trace, each fault under a name.

The format filter is the paper's (section 2.2 and its reference notebook); the faults of a trace are ours. All of it is
linear in the length of the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from s1.grading.extract import boxes, final_answer, unterminated
from s1.grading.normalise import normalise, squeeze

MAX_QUESTION_CHARS = 100_000
MAX_TRACE_CHARS = 4_000_000
CUT_SHORT = frozenset({"length", "max_tokens", "max_output_tokens", "truncated"})

_NUMBERED = re.compile(r"p[1-9]\d{0,2}\.")
_AIME = re.compile(r"(?:^|[:/])aime[^/]*\Z", re.IGNORECASE)
_RUN = re.compile(r"[^\s\]]+")

_TAIL_WORDS, _LOOP_WORDS, _LOOP_ROUNDS = 2_000, 60, 6
_TAIL_CHARS, _LOOP_CHARS, _CHAR_ROUNDS = 2_000, 200, 20
_SAME_LINE_CHARS, _SAME_LINE_TIMES = 20, 12
_SHORT_ATTEMPT_CHARS = 200
_CONCLUSION_CHARS = 5_000


def issues(row: Mapping[str, Any]) -> list[str]:
    """Names of the faults of one row of TRACES; empty when there is none.

    question_format, question_too_long, empty_thinking, empty_attempt, truncated, repetition, answer_missing.
    """
    question, thinking, attempt = (row.get(name) or "" for name in ("question", "thinking", "attempt"))
    found: list[str] = []
    if len(question) > MAX_QUESTION_CHARS:
        found.append("question_too_long")
    elif badly_formatted(question, row.get("source") or ""):
        found.append("question_format")
    if not thinking.strip():
        found.append("empty_thinking")
    if not attempt.strip():
        found.append("empty_attempt")
    if is_truncated(row.get("finish_reason"), thinking, attempt):
        found.append("truncated")
    if repeats_itself(thinking) or repeats_itself(attempt):
        found.append("repetition")
    if attempt.strip() and row.get("answer") and not states_answer(attempt, row["answer"]):
        found.append("answer_missing")
    return found


def badly_formatted(question: str, source: str = "") -> bool:
    """The reference's format filter: figures that are not there, numbered parts, bold numbers.

    `[asy]` drawings are kept for AIME, whose questions say in words what the figure shows: of sources whose own name
    begins with it, not of parts of collections such as `NuminaMath-CoT/amc_aime`.
    """
    if "[asy]" in question and not _AIME.search(source):
        return True
    if "![Image]" in question or _NUMBERED.search(question):
        return True
    return any(has_bold_number(line) for line in question.split("\n") if "**" in line)


def has_bold_number(line: str) -> bool:
    r"""Whether `\*\*(?=.*\d)[^\s\]]*\*\*` is found in a line, in linear time."""
    last_digit = next((at for at in range(len(line) - 1, -1, -1) if line[at].isdecimal()), -1)
    for run in _RUN.finditer(line):
        first, last = run[0].find("**"), run[0].rfind("**")
        if 0 <= first <= last - 2 and run.start() + first + 2 <= last_digit:
            return True
    return False


def is_truncated(finish_reason: str | None, thinking: str, attempt: str) -> bool:
    """Whether the teacher was cut off: by its own account, by an open box, or by a length that no trace has."""
    if (finish_reason or "").lower() in CUT_SHORT or unterminated(attempt[-MAX_QUESTION_CHARS:]):
        return True
    return len(thinking) + len(attempt) > MAX_TRACE_CHARS


def repeats_itself(text: str) -> bool:
    """Whether the text ends in a loop, or consists for the greater part of one line."""
    words = text[-20 * _TAIL_WORDS :].split()[-_TAIL_WORDS:]
    if _loops(words, _LOOP_WORDS, _LOOP_ROUNDS):
        return True
    if _loops(text.rstrip()[-_TAIL_CHARS:], _LOOP_CHARS, _CHAR_ROUNDS):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    (line, times), *_ = Counter(lines).most_common(1) or [("", 0)]
    return len(line) >= _SAME_LINE_CHARS and times >= _SAME_LINE_TIMES and 2 * times > len(lines)


def _loops(items: Sequence[str], min_length: int, min_rounds: int) -> bool:
    """Whether some suffix of at least `min_length` items is one period said at least `min_rounds` times."""
    backwards = items[::-1]
    # border[i]: length of the longest proper border of backwards[:i + 1], so its shortest period is i + 1 - border[i].
    border = [0] * len(backwards)
    for at in range(1, len(backwards)):
        length = border[at - 1]
        while length and backwards[at] != backwards[length]:
            length = border[length - 1]
        border[at] = length + (backwards[at] == backwards[length])
        size = at + 1
        if size >= min_length and size >= min_rounds * (size - border[at]):
            return True
    return False


def states_answer(attempt: str, reference: str) -> bool:
    """Whether the attempt says what its answer is: in a box, after "Answer:", by being short, or literally."""
    attempt = attempt.strip()
    if len(attempt) <= _SHORT_ATTEMPT_CHARS or boxes(attempt) or len(final_answer(attempt)) < len(attempt) // 2:
        return True
    if len(reference) > _CONCLUSION_CHARS:
        return reference.strip() in attempt
    return squeeze(normalise(reference)).casefold() in squeeze(normalise(attempt[-_CONCLUSION_CHARS:])).casefold()
