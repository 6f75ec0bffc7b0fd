"""A model as judge, for answers that no rule can compare: what it is asked, and what it says."""

from __future__ import annotations

import re

PROMPT_VERSION = "1"
_MAX_CHARS = 20_000  # of each part: the end of a longer attempt or solution is shown

_PROMPT = """\
Compare a student's answer with the reference of a problem and decide whether the student is right.

- If the reference ends in a number, an expression or a choice, only that result counts, in whatever form it is written.
- If the reference is a proof, a derivation or a program, the student's way may differ; every step of it has to hold.
- A result that is missing, cut off or hedged is wrong.

Problem:
{question}

Reference:
{reference}

Student:
{attempt}

Give your reasons in a few sentences. End with a line that holds one word: Yes if the student is right, No if not."""

_AGAIN = "\n\nYour last line has to be Yes or No, nothing else. (Request {number}.)"
_YES = r"yes|correct|right|true|equivalent"
_NO = r"no|incorrect|wrong|false|not\s+(?:correct|right|equivalent|the\s+same)"
_WORD = re.compile(rf"(?<![\w-])(?:(?P<no>{_NO})|(?P<yes>{_YES}))(?![\w-])", re.IGNORECASE)
_LABELLED = re.compile(
    rf"(?:verdict|judge?ment|correct|decision|grade|result|answer)\W{{0,12}}(?:is\W{{1,4}})?(?:(?P<no>{_NO})|(?P<yes>{_YES}))\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[*_`#\"'{}\[\]()<>|\\]|boxed|text(?=\{)")


def prompt(question: str, reference: str, attempt: str, number: int = 1) -> str:
    """What the judge is asked; from the second time on it is told what was wrong with its reply."""
    asked = _PROMPT.format(
        question=question[-_MAX_CHARS:], reference=reference[-_MAX_CHARS:], attempt=attempt[-_MAX_CHARS:]
    )
    return asked if number == 1 else asked + _AGAIN.format(number=number)


def verdict(reply: str) -> bool | None:
    """What the judge says: the last line, whatever its decoration; else the last labelled verdict; None: unclear."""
    lines = [line for line in (_MARKUP.sub(" ", text).strip() for text in reply[-5_000:].splitlines()) if line]
    if not lines:
        return None
    last = {_is_yes(found) for found in _WORD.finditer(lines[-1])}
    if len(last) == 1 and len(lines[-1]) <= 200:
        return last.pop()
    labelled = [_is_yes(found) for found in _LABELLED.finditer(" ".join(lines[-5:]))]
    return labelled[-1] if labelled else None


def _is_yes(found: re.Match[str]) -> bool:
    return found["yes"] is not None
