"""A normal form of short answers: notation that carries no meaning is taken away.

Two answers with the same normal form are equal; different normal forms say nothing.
"""

from __future__ import annotations

import re

from s1.grading.extract import closing_brace

_WRAPPERS = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"))
_CHOICE = re.compile(r"^\(?[A-Za-z]\)?\s*[.:)]\s+(?=\S)")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox|rm)\s*\{")
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*(?:st|nd|rd|th)\b\s*\}?")
_DROPPED = re.compile(r"\\(?:left|right|quad|qquad|displaystyle|limits)(?![a-z])|\\!\s*|\\[,;:> ]|~")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\bdegrees?\b)")
_REPLACED = (
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\(?:lt)(?![a-z])"), "<"),
    (re.compile(r"\\(?:gt)(?![a-z])"), ">"),
    (re.compile(r"\\(?:leq|leqslant|le)(?![a-z])"), "<="),
    (re.compile(r"\\(?:geq|geqslant|ge)(?![a-z])"), ">="),
    (re.compile(r"\\(?:neq|ne)(?![a-z])"), "!="),
    (re.compile(r"\\(?:cdot|times|ast)(?![a-z])|[\u00d7\u00b7\u22c5]"), "*"),
    (re.compile(r"\\(?:div)(?![a-z])|\u00f7"), "/"),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"\\(?:infty)(?![a-z])"), "oo"),
    (re.compile(r"\*\*(?=\s*[\d({-])"), "^"),
)
_FRAC = re.compile(r"\\frac(?![a-z])\s*")
_ROOT = re.compile(r"\\sqrt(?![a-z])\s*(?!\s*\[)")
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")


def normalise(text: str) -> str:
    r"""Normal form: `\dfrac{14}{3}` -> `(14)/(3)`, `\left(1,\,2\right)` -> `(1,2)`, `$90^\circ$` -> `90`."""
    text = _CHOICE.sub("", unwrap(text.strip()))
    text = _DROPPED.sub("", text)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = _DEGREES.sub("", _ORDINAL.sub("", _plain_text(text)))
    text = _roots(_fractions(text)).replace("\\$", "").replace("\\%", "%")
    return unwrap(text.strip().rstrip(".").strip())


def squeeze(text: str) -> str:
    """Without the spaces that separate nothing: `( 1, 2 )` -> `(1,2)`, but `1 2` stays."""
    return _SPACE.sub("", text)


def unwrap(text: str) -> str:
    """Without math delimiters, bold marks and braces around the whole."""
    before = None
    while text != before:
        before = text
        text = text.strip()
        if text.startswith("**") and text.endswith("**") and len(text) > 4:
            text = text[2:-2]
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner and left not in inner:
                text = inner
        if text.startswith("{") and closing_brace(text, 1) == len(text) - 1:
            text = text[1:-1]
        if text.endswith((".$", ".\\)")):
            text = text[: text.rindex(".")] + text[text.rindex(".") + 1 :]
    return text


def plain(text: str) -> str:
    r"""The words of a short answer: `\text{(C)}` -> `(C)`, choice letters stay."""
    return unwrap(_plain_text(unwrap(text.strip())))


def _plain_text(text: str) -> str:
    r"""`\text{ cm}` -> ` cm`."""
    while (found := _TEXT.search(text)) is not None:
        end = closing_brace(text, found.end())
        if end is None:
            break
        text = text[: found.start()] + text[found.end() : end] + text[end + 1 :]
    return text


def _argument(text: str, start: int) -> tuple[str, int] | None:
    r"""The LaTeX argument at `start`, a braced group, a command or one character, and where it ends."""
    while start < len(text) and text[start] == " ":
        start += 1
    if start >= len(text):
        return None
    if text[start] == "{":
        end = closing_brace(text, start + 1)
        return None if end is None else (text[start + 1 : end], end + 1)
    command = re.compile(r"\\[a-zA-Z]+|.", re.DOTALL).match(text, start)
    assert command is not None
    return command.group(), command.end()


def _fractions(text: str) -> str:
    while (found := _FRAC.search(text)) is not None:
        top = _argument(text, found.end())
        bottom = _argument(text, top[1]) if top else None
        if top is None or bottom is None or not top[0].strip() or not bottom[0].strip():
            break
        text = f"{text[: found.start()]}({top[0]})/({bottom[0]}){text[bottom[1] :]}"
    return text


def _roots(text: str) -> str:
    at = 0
    while (found := _ROOT.search(text, at)) is not None:
        inner = _argument(text, found.end())
        if inner is None or not inner[0].strip() or inner[0] == "[":
            at = found.end()
            continue
        text = f"{text[: found.start()]}sqrt({inner[0]}){text[inner[1] :]}"
        at = found.start() + 4
    return text
