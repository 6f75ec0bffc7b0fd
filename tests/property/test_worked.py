"""Laws of the worked traces: they end in the reference answer, every line holds, the check takes another route."""

import asyncio
import json
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.sources import gym
from s1.sources.table import collect
from s1.teachers.protocol import Question, Status
from s1.teachers.worked import FAMILIES, Worked, WorkedTeacher

STEP = re.compile(r"(-?[\d +x-]+) = (-?\d+)(?: x (\d+))?(?: \+ (\d+))?")
PARAMETERS = {
    "products": {"min_digits": 1, "max_digits": 3},
    "leg_counting": {"min_animals": 1, "max_animals": 5},
    "chain_sum": {"max_digits": 3},
    "basic_arithmetic": {"operators": ["+"], "allow_parentheses": False, "allow_negation": False, "max_digits": 3},
}


NUM_QUESTIONS = 300


@cache
def questions(family: str) -> list[Question]:
    """Distinct questions of the family, made once: some families read a dictionary before their first question."""
    made = gym.questions({family: {"count": NUM_QUESTIONS, **PARAMETERS.get(family, {})}}, 0)
    names = ("question_id", "question", "answer", "domain", "solution", "metadata")
    return [Question(**{name: row[name] for name in names}) for row in collect(made, 0, 0).rows]


def trace(family: str, at: int, check_share: float):
    question = questions(family)[at % len(questions(family))]
    return question, asyncio.run(WorkedTeacher(Worked(check_share=check_share)).trace(question))


@pytest.mark.parametrize("family", FAMILIES)
@given(at=st.integers(0, NUM_QUESTIONS - 1))
def test_every_trace_ends_in_the_reference_and_every_step_in_it_holds(family, at):
    question, outcome = trace(family, at, check_share=1)
    assert outcome.status == Status.OK
    assert outcome.attempt == question.answer
    assert outcome.thinking.endswith(question.answer)
    for left, right, quotient, rest in STEP.findall(outcome.thinking):
        value = int(right) * int(quotient or 1) + int(rest or 0)
        assert eval(left.replace("x", "*")) == value, outcome.thinking


@pytest.mark.parametrize("family", FAMILIES)
@given(at=st.integers(0, NUM_QUESTIONS - 1))
def test_the_check_starts_on_a_line_of_its_own_and_says_something_new(family, at):
    _, plain = trace(family, at, check_share=0)
    _, checked = trace(family, at, check_share=1)
    assert "Wait" not in plain.thinking
    if checked.thinking != plain.thinking:
        first, _, second = checked.thinking.partition("\nWait, ")
        assert first == plain.thinking
        assert second not in first


def test_about_the_asked_share_of_traces_is_checked_always_the_same_ones():
    rows = collect(gym.questions({"products": {"count": 600, "min_digits": 2, "max_digits": 2}}, 3), 0, 0).rows
    questions = [Question(r["question_id"], r["question"], r["answer"], r["domain"], None, r["metadata"]) for r in rows]

    def checked() -> list[bool]:
        teacher = WorkedTeacher(Worked(check_share=0.35))
        return ["Wait" in asyncio.run(teacher.trace(question)).thinking for question in questions]

    first = checked()
    assert first == checked()
    assert 0.25 < sum(first) / len(first) < 0.45


def test_what_it_cannot_solve_is_declined_and_what_contradicts_the_reference_is_not_given_out():
    teacher = WorkedTeacher(Worked(families=("products",)))
    facts = {"source_dataset": "products", "entry": {"metadata": {"expression": "12 * 34"}}}

    def status(domain: str | None, answer: str, metadata: dict | None) -> Status:
        text = None if metadata is None else json.dumps(metadata)
        return asyncio.run(teacher.trace(Question("q", "?", answer, domain, None, text))).status

    assert status("products", "408", facts) == Status.OK
    assert status("products", "409", facts) == Status.MALFORMED
    assert status("leg_counting", "408", facts) == Status.DECLINED
    assert status(None, "408", None) == Status.DECLINED
    facts["entry"]["metadata"]["expression"] = "1 * 2 * 3"
    assert status("products", "6", facts) == Status.DECLINED
