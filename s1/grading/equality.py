"""Decide whether a prediction gives the reference answer: exact, then rational, then symbolic.

Every step only looks at what the one before could not decide. Whatever the input, the answer comes within a few
seconds; what cannot be decided counts as wrong.
"""

from __future__ import annotations

import re
from fractions import Fraction

from s1.grading import workers
from s1.grading.extract import denied, final_answer, response_part, unterminated
from s1.grading.normalise import normalise, plain, squeeze
from s1.grading.rational import rational

MAX_RESPONSE_CHARS = 200_000  # of a longer response only the end is read: the final answer stands there
MAX_ANSWER_CHARS = 2_000  # longer answers are compared as text only

_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?\s*[.:)]?")
_NAMED_CHOICE = re.compile(r"\b(?:option|choice|answer)\s+(?:is\s+)?[(*]*([A-J])\b|\(([A-J])\)")
_LEADING_CHOICE = re.compile(r"\(?\s*([A-J])\s*(?:[).:]|$)")
_ASSIGNED = re.compile(r"[A-Za-z]\s*(?:=|\\in\b|\bin\b)\s*(?=[-\d.(\\])")
_MIXED = re.compile(r"(-?)(\d+)(?:\s*\((\d+)\)/\((\d+)\)|\s+(\d+)/(\d+))")
_ROOT = re.compile(r"(?<!\\)\bsqrt\s*\(([^()]*)\)")
_MARKED = re.compile(r"\$|\\\(|\\\[|\\boxed|\\fbox")
_FORMULA = re.compile(r"[\\^A-Za-z]")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+|\b(?:sqrt|sin|cos|tan|log|ln|exp)\b")
_WORDS = re.compile(r"[A-Za-z]{3}|\n|€|£")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


def equivalent(gold: str, prediction: str) -> bool:
    """Whether `prediction`, a final answer or a whole response, gives the answer `gold`.

    Callable from any thread. Takes at most a few seconds, whatever is passed, besides waiting for a core and behind
    others that take as long; fails closed.
    """
    prediction = response_part(prediction[-MAX_RESPONSE_CHARS:])
    gold = gold[-MAX_RESPONSE_CHARS:].strip()
    if not gold or not prediction or unterminated(prediction):
        return False
    wanted, given = final_answer(gold), final_answer(prediction)
    if same_text(wanted, given) or same_text(gold, given):
        return True
    if max(len(wanted), len(given)) > MAX_ANSWER_CHARS or denied(given):
        return False
    decided = decided_by_rules(wanted, given)
    return decided if decided is not None else _symbolic(gold, prediction, wanted, given)


def same_text(left: str, right: str) -> bool:
    """Whether two answers have the same normal form."""
    if max(len(left), len(right)) > MAX_ANSWER_CHARS:
        return left.split() == right.split()
    forms = [squeeze(normalise(text)).casefold() for text in (left, right)]
    return bool(forms[0]) and forms[0] == forms[1]


def decided_by_rules(wanted: str, given: str) -> bool | None:
    """The verdict on two final answers where exact rules give one, else None."""
    choice = _CHOICE.fullmatch(plain(wanted))
    if choice is not None and (letter := chosen(plain(given))) is not None:
        return choice[1] == letter
    wanted, given = normalise(wanted), normalise(given)
    if not given:
        return False
    left, right = rational(_value(wanted)), rational(_value(given))
    if left is not None and right is not None:
        return left == right
    return _same_list(wanted, given)


def chosen(answer: str) -> str | None:
    """The letter that an answer to a multiple-choice question names."""
    leading = _LEADING_CHOICE.match(answer)
    if leading is not None:
        return leading[1]
    named = _NAMED_CHOICE.findall(answer)
    return named[-1][0] or named[-1][1] if named else None


def _value(text: str) -> str:
    """`x=5` -> `5`; the mixed number `1 1/2` -> `1+1/2`."""
    text = _ASSIGNED.sub("", text, count=1) if _ASSIGNED.match(text) else text
    mixed = _MIXED.fullmatch(text)
    if mixed is None:
        return text
    sign, whole, *parts = mixed.groups()
    top, bottom = [part for part in parts if part is not None]
    return f"{sign}({whole}+{top}/{bottom})" if int(top) < int(bottom) else text


def _same_list(wanted: str, given: str) -> bool | None:
    """Whether a list of the same numbers is the same list; None where these are not lists of the same numbers.

    Order counts where the reference is in round or square brackets. Two numbers in brackets of another kind are another
    thing: an open interval is no closed one, a pair is no set.
    """
    (left, brackets), (right, other) = _numbers(wanted), _numbers(given)
    if left is None or right is None or sorted(left) != sorted(right):
        return None
    if brackets not in ("(", "["):
        return True
    return left == right and (len(left) > 2 or other in (None, brackets))


def _numbers(text: str) -> tuple[list[Fraction] | None, str | None]:
    """The numbers of a list such as `1, -2` or `(1,-2)` and the bracket that opens it."""
    text = _value(text.strip())
    opening = next((mark for mark in _BRACKETS if text.startswith(mark)), None)
    if opening is not None and text.endswith(_BRACKETS[opening]):
        text = text[len(opening) : -len(_BRACKETS[opening])]
    values = [rational(part) for part in re.split(r",|\band\b|\bor\b", text) if part.strip()]
    if len(values) < 2 or None in values:
        return None, None
    return [value for value in values if value is not None], opening


def _symbolic(gold: str, prediction: str, wanted: str, given: str) -> bool:
    """As math-verify reads the two texts."""
    return bool(workers.verify_math(_latex(gold, wanted), _latex(prediction, given)))


def _latex(text: str, answer: str) -> str:
    """The text as it stands when it marks its mathematics or is prose; a bare formula is marked as one.

    In unmarked text math-verify takes the next best number for the answer: the 2 of x^2.
    """
    if _MARKED.search(text) or not _FORMULA.search(answer) or _WORDS.search(_COMMAND.sub("", answer)):
        return text
    return "$" + _ROOT.sub(r"\\sqrt{\1}", answer) + "$"
