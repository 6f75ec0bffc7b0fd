"""A model as judge, for answers that no rule can compare: what it is asked, and what it says."""

from __future__ import annotations

import re

_MAX_LINE = 200  # of one that holds a verdict and nothing else
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
_NOT_RIGHT = r"incorrect|wrong|false|not\s+(?:correct|right|equivalent|the\s+same)"
_IS_RIGHT = r"correct|right|true|equivalent"
_WORD = rf"\(?\s*(?:(?P<no>no|{_NOT_RIGHT})|(?P<yes>yes|{_IS_RIGHT}))"
_END = r"(?=\s*(?:[.,;:!()\u2013\u2014-]|\Z))"  # "no issues" and "correct only if" are no verdicts
# What a line may be that is a verdict and nothing else.
_ALONE = (
    re.compile(rf"(?:(?:so\b\W*)?(?:(?:the|my|final)\s+)*answer\s*(?:is|:)[\s:]*)?{_WORD}[\s.!)]*", re.IGNORECASE),
    re.compile(
        r"(?:so\b\W*)?(?:it|this|(?:the\s+)?(?:student|attempt|answer)(?:[\s\u2019]s\s+(?:final\s+)?\w+)?)\s+is\s+"
        rf"(?:(?P<no>{_NOT_RIGHT})|(?P<yes>{_IS_RIGHT}))[\s.!]*",
        re.IGNORECASE,
    ),
)
_LEADING = re.compile(rf"(?:(?P<no>no|incorrect|wrong)|(?P<yes>yes|correct)){_END}", re.IGNORECASE)  # not "Right, ..."
# What takes back a verdict at the start of a line.
_TURNED = {
    True: re.compile(rf"\b(?:no\W*\Z|(?:{_NOT_RIGHT}|not\s+quite)\b)", re.IGNORECASE),
    False: re.compile(r"\b(?:yes|(?:is|are)\s+(?:correct|right)|not\s+(?:wrong|incorrect)|matches)\b", re.IGNORECASE),
}
_LABELLED = re.compile(
    r"\b(?:verdict|judge?ment|decision|grade|conclusion|correct)\s*"
    rf"(?:[:=\u2013\u2014-]|is\b)[\s:]*{_WORD}{_END}",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"</?\w+>|[$*_`#\"'{}\[\]<>|\\]|boxed|text(?=\{)")


def prompt(question: str, reference: str, attempt: str, number: int = 1) -> str:
    """What the judge is asked; from the second time on it is told what was wrong with its reply."""
    asked = _PROMPT.format(
        question=question[-_MAX_CHARS:], reference=reference[-_MAX_CHARS:], attempt=attempt[-_MAX_CHARS:]
    )
    return asked if number == 1 else asked + _AGAIN.format(number=number)


def verdict(reply: str) -> bool | None:
    """What the judge says; None when that is not clear beyond doubt.

    The last line counts where it is the verdict alone, whatever its decoration, or starts with it; else a verdict that
    is labelled so ("Verdict: No") in the last of the last lines that has one. Words such as "right" and "no" elsewhere
    in a sentence say nothing.
    """
    lines = [line for line in (_MARKUP.sub(" ", text).strip() for text in reply[-5_000:].splitlines()) if line]
    if not lines:
        return None
    last = lines[-1]
    for pattern in _ALONE:
        if len(last) <= _MAX_LINE and (alone := pattern.fullmatch(last)) is not None:
            return _is_yes(alone)
    if (leading := _LEADING.match(last)) is not None:
        says = _is_yes(leading)
        return None if _TURNED[says].search(last, leading.end()) else says
    for line in reversed(lines[-5:]):
        if labelled := {_is_yes(found) for found in _LABELLED.finditer(line)}:
            return labelled.pop() if len(labelled) == 1 else None
    return None


def _is_yes(found: re.Match[str]) -> bool:
    return found["yes"] is not None
