"""What kind of answer a question wants: only mathematics is put to a maths parser.

A proof and a program cannot be decided by comparing texts; a choice is decided by its letter, or by the text of the
option that the letter stands for.
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["math", "choice", "code", "proof"]

_CHOICES = re.compile(r"\(?\s*([A-J](?:\s*,?\s*(?:and\s+)?[A-J]){0,9})\s*\)?\s*[.:)]?")
_LETTER = re.compile(r"[A-J]")
_OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-J])[).:] ?(.+?)(?= \(?[A-J][).:]|\n|\Z)", re.MULTILINE)
_BLANKS = re.compile(r"[^\S\n]+")
_PROOF = re.compile(
    r"\b(?:prove|disprove|show)\s+(?:that|the|by|if|it|this|for|whether|or)\b|\bprove:|\bdemonstrate\s+that\b|"
    r"\b(?:give|write)\s+a\s+proof\b",
    re.IGNORECASE,
)
_PROGRAM = re.compile(
    r"^[^\S\n]*(?:```|#include\b|def\s+\w+\(|class\s+\w+[:(]|import\s+\w|from\s+\w+\s+import\b|int\s+main\s*\(|"
    r"public\s+(?:static|class)\b|using\s+namespace\b|function\s+\w+\(|fn\s+\w+\(|SELECT\s.+\sFROM\b)",
    re.MULTILINE,
)
_ASKS_PROGRAM = re.compile(
    r"\b(?:write|implement|complete)\s+(?:a|an|the)\s+(?:\w+\s+){0,3}(?:program|function|method|class|script)\b|"
    r"\bINPUT FORMAT\b|\binput is given from standard input\b|\bstandard output\b",
    re.IGNORECASE,
)
_SHORT_CHARS = 100


def kind_of(question: str, answer: str | None) -> Kind:
    """The kind of the answer to `question`, whose reference is `answer`."""
    reference = (answer or "").strip()
    if _PROGRAM.search(reference) or (
        _ASKS_PROGRAM.search(question) and len(reference) != 1 and not _number(reference)
    ):
        return "code"
    if reference and letters(reference) and (len(letters(reference)) == 1 or len(options(question)) > 1):
        return "choice"
    if _PROOF.search(question) and (not reference or len(reference) > _SHORT_CHARS or "proof" in reference.lower()):
        return "proof"
    return "math"


def letters(answer: str) -> frozenset[str]:
    """The letters of an answer that is nothing but letters of choices: `C`, `(C)`, `ABD`, `A, B and D`."""
    found = _CHOICES.fullmatch(answer.strip()) if len(answer) <= _SHORT_CHARS else None
    named = _LETTER.findall(found[1]) if found else []
    # The letters of a choice are named once, in order: CAB is a word or a product.
    return frozenset(named) if named and named == sorted(set(named)) else frozenset()


def options(question: str) -> dict[str, str]:
    """Letter and text of the options of a question; none unless they start with A and go on without a gap."""
    found: dict[str, str] = {}
    for letter, text in _OPTION.findall(_BLANKS.sub(" ", question[-20_000:])):
        if letter == "ABCDEFGHIJ"[len(found) : len(found) + 1]:
            found[letter] = " ".join(text.split())
    return found if len(found) > 1 else {}


def program(text: str) -> str:
    """A program without its fences and the white space that ends its lines."""
    fenced = re.findall(r"```[^\n`]*\n(.*?)```", text, re.DOTALL)
    lines = (fenced[-1] if fenced else text).strip("\n").splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d[\d,]*(?:\.\d+)?", text) is not None
