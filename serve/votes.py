"""Which of several generations answers: the majority's, or the best."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from s1.grading.equality import same_text
from s1.grading.extract import final_answer
from s1.grading.normalise import normalise
from s1.grading.rational import rational
from serve.events import Choice, Vote

_SHOWN_CHARS = 200


def majority(choices: Sequence[Choice]) -> int:
    """Index of the first generation that gives the answer that most give; the answer that came first wins a tie.

    Generations without an answer have no vote, and answer only when none has one.
    """
    groups = _groups(choices)
    return max(groups, key=len)[0] if groups else 0


def best(choices: Sequence[Choice]) -> int:
    """Index of the generation that thought least, of those that ended their thinking and their answer themselves.

    Of sampled traces the shorter ones are right more often (paper, section 5.2). Where none ended by itself, those
    that at least answered are looked at, then all.
    """

    def rank(index: int) -> tuple[bool, bool, int]:
        choice = choices[index]
        ended = choice.report.ended_by in ("natural", None) and choice.report.finish_reason == "stop"
        return not ended, not choice.content.strip(), choice.report.thinking_tokens

    return min(range(len(choices)), key=rank)


def count(choices: Sequence[Choice]) -> tuple[Vote, ...]:
    """The answers and how many gave them, most first."""
    groups = sorted(_groups(choices), key=len, reverse=True)
    return tuple(Vote(final_answer(choices[group[0]].content)[:_SHOWN_CHARS], len(group)) for group in groups)


def _groups(choices: Sequence[Choice]) -> list[list[int]]:
    """Indices of generations with the same answer, in the order in which the answers came."""
    groups: list[tuple[str, Fraction | None, list[int]]] = []
    for index, choice in enumerate(choices):
        answer = final_answer(choice.content)
        if not answer.strip():
            continue
        value = rational(normalise(answer))
        for known, known_value, members in groups:
            if (value is not None and value == known_value) or same_text(known, answer):
                members.append(index)
                break
        else:
            groups.append((answer, value, [index]))
    return [members for _, _, members in groups]
