"""Step-by-step traces that are correct by construction, for the task families that can be solved step by step.

Small explicit steps, one per line, that a small model can learn; in a share of the traces a second pass on a line that
starts with "Wait" and takes another route to the same result, so that a forced "Wait" meets something the model knows.
Which traces are checked follows from the question's key. A trace that misses the reference answer is never given out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from s1.config import Config
from s1.teachers.protocol import Question, Status, TraceOutcome, classified

CHECK = "Wait, another way:"  # the line before the second route

# A route is lines of steps and the result that they end in; the second one is None when there is no other route.
Steps = tuple[list[str], str]


@dataclass(frozen=True)
class Solution:
    """Two independent routes to the result."""

    first: Steps
    second: Steps | None = None


class Worked(Config):
    """How the `worked` teacher writes."""

    families: tuple[str, ...] = Field(default=(), description="Task families to solve; if empty, all it knows.")
    check_share: float = Field(default=0.35, ge=0, le=1, description="Share of traces with a checking pass.")


class WorkedTeacher:
    """Solves what it can, declines the rest."""

    name = "worked"
    trace_kind = "worked"

    def __init__(self, settings: Worked) -> None:
        self.settings = settings
        self.families = settings.families or tuple(FAMILIES)

    async def trace(self, question: Question) -> TraceOutcome:
        """The worked trace of a question of a known family."""
        if question.domain not in self.families or question.metadata is None:
            return TraceOutcome(Status.DECLINED, detail=f"no steps for the family {question.domain}")
        facts = json.loads(question.metadata)["entry"]["metadata"]
        solution = FAMILIES[question.domain](facts)
        if solution is None:
            return TraceOutcome(Status.DECLINED, detail=f"{question.domain}: too large for small steps")
        thinking = render(solution, checked=self._is_checked(question.question_id))
        results = {steps[1] for steps in (solution.first, solution.second) if steps}
        if results != {(question.answer or "").strip()}:
            return TraceOutcome(Status.MALFORMED, detail=f"steps end in {results}, the reference is {question.answer}")
        return classified(thinking, solution.first[1], "stop")

    def _is_checked(self, question_id: str) -> bool:
        draw = int.from_bytes(hashlib.sha256(f"check:{question_id}".encode()).digest()[:8]) / 2**64
        return draw < self.settings.check_share


def render(solution: Solution, *, checked: bool) -> str:
    """The thinking: the first route line by line and, when checked, the second one after "Wait"."""
    lines = list(solution.first[0])
    if checked and solution.second is not None:
        lines += [CHECK, *solution.second[0]]
    return "\n".join(lines)


def _parts(number: int) -> list[int]:
    """A number as the sum of its digits' values: 204 is 200 + 4."""
    digits = str(number)
    values = [int(digit) * 10 ** (len(digits) - at - 1) for at, digit in enumerate(digits)]
    return [value for value in values if value] or [0]


def _running_sum(values: list[int]) -> tuple[list[str], int]:
    """One number after the other."""
    total, lines = values[0], list[str]()
    for value in values[1:]:
        lines.append(f"{total} + {value} = {total + value}")
        total += value
    return lines, total


def _sum_in_steps(values: list[int]) -> tuple[list[str], int]:
    """One number after the other, tens before units: no step needs a carry in two places."""
    steps = [values[0]]
    for value in values[1:]:
        steps += [part for part in (value // 10 * 10, value % 10) if part] or [0]
    return _running_sum(steps)


def _sum_both_ways(values: list[int], first_lines: list[str]) -> Solution:
    """The sum from the first number on and, as the check, from the last one on."""
    sums, total = _sum_in_steps(values)
    back, again = _sum_in_steps(values[::-1])
    other = (back, str(again)) if back != sums else None
    return Solution(([*first_lines, *sums], str(total)), other)


def _products(facts: Mapping[str, Any]) -> Solution | None:
    """Two whole numbers of at most three digits: split the second one, and the first one for the check."""
    factors = [int(factor) for factor in str(facts["expression"]).split(" * ")]
    if len(factors) != 2 or not all(0 <= factor < 1000 for factor in factors):
        return None
    left, right = factors
    if len(_parts(right)) == 1:  # nothing to split there: begin with the other one
        left, right = right, left
    first, result = _product(left, right)
    second, again = _product(right, left)
    other = (second, str(again)) if len(_parts(left)) > 1 else None
    return Solution(([f"{left} x {right}", *first], str(result)), other)


def _product(left: int, right: int) -> tuple[list[str], int]:
    """`left` times every part of `right`, then the running sum."""
    partial = [(part, left * part) for part in _parts(right)]
    sums, total = _running_sum([value for _, value in partial])
    return [*(f"{left} x {part} = {value}" for part, value in partial), *sums], total


def _basic_arithmetic(facts: Mapping[str, Any]) -> Solution | None:
    """Plain sums of whole numbers; everything else is declined."""
    terms = str(facts["expression"]).split(" + ")
    if len(terms) < 2 or not all(term.isdecimal() for term in terms):
        return None
    return _sum_both_ways([int(term) for term in terms], [])


def _leg_counting(facts: Mapping[str, Any]) -> Solution | None:
    """Legs of every animal, then their sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    herd = [(animal, int(count), int(ANIMALS[animal])) for animal, count in facts["animals"].items()]
    lines = [f"{count} {animal}: {count} x {each} = {count * each}" for animal, count, each in herd]
    return _sum_both_ways([count * each for _, count, each in herd], lines)


def _gcd(facts: Mapping[str, Any]) -> Solution | None:
    """Euclid's divisions; the check divides both numbers by the result."""
    numbers = [int(number) for number in facts["numbers"]]
    if len(numbers) != 2:
        return None
    large, small = max(numbers), min(numbers)
    lines = list[str]()
    while small:
        lines.append(f"{large} = {large // small} x {small} + {large % small}")
        large, small = small, large % small
    quotients = [number // large for number in numbers]
    check = [f"{number} = {large} x {part}" for number, part in zip(numbers, quotients, strict=True)]
    check.append(f"{quotients[0]} and {quotients[1]} share no factor: {large}")
    return Solution(([*lines, f"gcd {large}"], str(large)), (check, str(large)))


def _chain_sum(facts: Mapping[str, Any]) -> Solution | None:
    """From left to right; the check takes all that is added from all that is taken away."""
    tokens = str(facts["expression"]).split()
    signs = [1, *(1 if sign == "+" else -1 for sign in tokens[1::2])]
    numbers = [int(number) for number in tokens[::2]]
    if len(numbers) < 2 or any(number < 0 for number in numbers):
        return None
    total, lines = numbers[0], list[str]()
    for sign, number in zip(signs[1:], numbers[1:], strict=True):
        lines.append(f"{total} {'+' if sign > 0 else '-'} {number} = {total + sign * number}")
        total += sign * number
    added, taken = (sum(n for s, n in zip(signs, numbers, strict=True) if s == side) for side in (1, -1))
    check = [f"added {added}, taken away {taken}:", f"{added} - {taken} = {added - taken}"]
    return Solution((lines, str(total)), (check, str(added - taken)) if taken else None)


def _spell_backward(facts: Mapping[str, Any]) -> Solution | None:
    """Letter by letter from the end; the check reads the result backwards."""
    word = str(facts["word"])
    backward = word[::-1]
    lines = [f"{word}: {' '.join(word)}", f"from the end: {' '.join(backward)}", backward]
    return Solution((lines, backward), ([f"back again: {' '.join(word)}", backward], backward))


FAMILIES: dict[str, Callable[[Mapping[str, Any]], Solution | None]] = {
    "products": _products,
    "basic_arithmetic": _basic_arithmetic,
    "leg_counting": _leg_counting,
    "gcd": _gcd,
    "chain_sum": _chain_sum,
    "spell_backward": _spell_backward,
}
