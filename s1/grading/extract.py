r"""Find the final answer in a response: the last \boxed{}, else what follows the last "Answer:".

Pure string work, linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKER = re.compile(
    r"(?:####(?=[^\n]{0,200}+\s*\Z)"  # the way gsm8k ends; elsewhere it is a heading
    r"|^[#* \t]*(?:final[ \t]+)?answer[* \t]*$"
    r"|\b(?:final|correct|right)?\s*(?:\d\s+)?answer\b\**\s*(?:is\b\s*:?|:|=)"
    r"|<answer>)"
    r"[\s*]*",
    re.IGNORECASE | re.MULTILINE,
)
_FINAL = re.compile(r"\bfinal\s+answer\b", re.IGNORECASE)
_TAIL = re.compile(r"I hope it is correct", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+(?:\.\d+)?)?")
_THINKING_END = re.compile(r"</think>|<\|im_start\|>answer\n?")
_AFTER = re.compile(r"<\|im_|<\|endoftext\|>|</answer>")
# Boxes belong together when only separators or an "and" stand between them.
_BETWEEN = re.compile(
    r"(?:[\s$,;:.+()\\\[\]]|\\quad|\\qquad|\\text\{|\}|and|or)*|[^.\n]{0,40}\b(?:and|or)\b[^.\n]{0,10}"
)

_NOT = r"(?:\b(?:not|never|cannot|neither|nor)\b|n['\u2019]t\b)"
_FILLING = r"(?:\s+(?:be|equals?|to|the|an?|just|really|exactly|right|correct|value|number|option|choice|answer)\b)*"
_DENIED = re.compile(
    rf"\A[\W_]*(?:\w+ly\s+)?{_NOT}{_FILLING}[^\w\\]++(?![A-Za-z]{{2}})"  # "the answer is" definitely not 5
    # it isn't 5; 5 is not the answer; but in "5, not 6" it stands before
    rf"|(?<![\d,;(){{}}$]\s)(?<!\(){_NOT}{_FILLING}(?:[^A-Za-z\n\\]|\\[A-Za-z]+|\b[A-Za-z]\b){{0,80}}\Z"
    r"|\b(?:wrong|incorrect)\W*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Box:
    """Content of one `\\boxed{}` and where it stands; `end` is None when its brace is never closed."""

    content: str
    start: int
    end: int | None


def boxes(text: str) -> list[Box]:
    """Outermost boxes, in order; only the last can be unterminated."""
    found: list[Box] = []
    at = 0
    while (opening := _BOX.search(text, at)) is not None:
        end = closing_brace(text, opening.end())
        if end is None:
            found.append(Box(text[opening.end() :], opening.start(), None))
            break
        found.append(Box(text[opening.end() : end], opening.start(), end + 1))
        at = end + 1
    return found


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one opened just before `start`; escaped braces do not count."""
    depth, at = 1, start
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None


def last_boxed(text: str) -> str | None:
    """Content of the last box as it stands; None without a box or when the last one is unterminated."""
    found = boxes(text)
    return found[-1].content if found and found[-1].end is not None else None


def unterminated(text: str) -> bool:
    """Whether the text breaks off inside a box."""
    found = boxes(text)
    return bool(found) and found[-1].end is None


def _says_final_later(text: str) -> bool:
    """Whether a "final answer" is announced after the last box, in words."""
    found = boxes(text)
    rest = text[found[-1].end :] if found else ""
    return _FINAL.search(rest) is not None and after_marker(rest) is not None


def last_boxes(text: str) -> list[str]:
    """Contents of the last group of boxes: `\\boxed{1} and \\boxed{2}` is one answer of two parts."""
    found = [box for box in boxes(text) if box.end is not None]
    group = found[-1:]
    for box in reversed(found[:-1]):
        between = text[box.end : group[0].start]
        if len(between) > 60 or not _BETWEEN.fullmatch(between):
            break
        group.insert(0, box)
    return list(dict.fromkeys(box.content.strip() for box in group))


def response_part(text: str) -> str:
    """What the reader of a response gets: without the thinking before it and the control tokens after it."""
    ends = list(_THINKING_END.finditer(text))
    if ends and text[ends[-1].end() :].strip():
        text = text[ends[-1].end() :]
    cut = _AFTER.search(text)
    return (text[: cut.start()] if cut and text[: cut.start()].strip() else text).strip()


def after_marker(text: str) -> str | None:
    """What follows the last "Answer:" (or "the answer is", "####"), to the end of its paragraph; None without one."""
    for marker in reversed(list(_MARKER.finditer(text))):
        rest = text[marker.end() :].strip()
        if rest:
            return _TAIL.split(re.split(r"\n\s*\n", rest, maxsplit=1)[0], maxsplit=1)[0].rstrip(" .\n")
    return None


def denied(answer: str) -> bool:
    """Whether a final answer in words says what the answer is not."""
    return _DENIED.search(answer[:40] + answer[40:][-200:]) is not None


def final_answer(text: str) -> str:
    """The final answer of a response; the text itself when it is nothing but an answer.

    Last box (unless a "final answer" is announced after it), else what follows the last marker, else, when a marker is
    followed by nothing, the last number before it.
    """
    text = response_part(text)
    group = last_boxes(text)
    if group and not _says_final_later(text):
        return ", ".join(group)
    marked = after_marker(text)
    if marked is not None:
        return marked
    if _MARKER.search(text) and (numbers := _NUMBER.findall(text)):
        return numbers[-1]
    return text
