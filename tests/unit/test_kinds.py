import time

import pytest

from s1.grading.kinds import kind_of, letters, options
from s1.grading.verify import correct

OPTIONS = "Which is largest?\n(A) 1/2\n(B) 0.75\n(C) the cat\n(D) none of these"


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("What is 2 + 2?", "4", "math"),
        ("Find x.", "\\frac{1}{2}", "math"),
        (OPTIONS, "B", "choice"),
        (OPTIONS, "(B)", "choice"),
        (OPTIONS, "ABD", "choice"),
        (OPTIONS, "B and C", "choice"),
        ("What is the product of A and B?", "AB", "math"),
        ("Prove that there are infinitely many primes.", "Assume that there are finitely many. " * 5, "proof"),
        ("Show that $x^2 \\ge 0$.", None, "proof"),
        ("Find all n. Prove that there are no others.", "3", "math"),
        ("Show that it is so.", "proof", "proof"),
        ("Show the largest one and find its value.", "12", "math"),
        ("Add two numbers.", "```python\nprint(sum(map(int, input().split())))\n```", "code"),
        ("Write a program that adds.", "def add(a, b):\n    return a + b", "code"),
        ("INPUT FORMAT (cows.in): N", None, "code"),
        ("What does this program print? Write a program if you like.", "17", "math"),
        ("", None, "math"),
    ],
)
def test_what_kind_of_answer_is_wanted(question: str, answer: str | None, kind: str):
    assert kind_of(question, answer) == kind


def row(question: str, answer: str) -> dict[str, str | None]:
    return {"question": question, "answer": answer, "source": "files:x", "metadata": None}


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("B", "It is larger. Answer: B", True),
        ("B", "Answer: (B) 0.75", True),
        ("B", "\\boxed{3/4}", True),
        ("B", "Answer: 1/2", False),
        ("C", "Answer: The cat.", True),
        ("B", "Answer: 17", False),
        ("B", "\\boxed{B", False),
        ("ABD", "\\boxed{A, B, D}", True),
        ("ABD", "\\boxed{AB}", False),
        ("AC", "Answer: A and C", True),
        ("B", "", False),
    ],
)
def test_a_choice_is_its_letters_or_the_text_of_its_option(answer: str, response: str, expected: bool):
    assert correct(row(OPTIONS, answer), response) is expected


def test_proofs_and_programs_have_no_verdict_unless_they_are_the_reference():
    proof = row("Prove that 2 is prime.", "Its divisors are 1 and 2. " * 10)
    assert correct(proof, "Every divisor of 2 is 1 or 2.") is None
    assert correct(proof, " ") is False
    program = row("Write a program that prints 1.", "```python\nprint(1)\n```")
    assert correct(program, "Here it is:\n```py\nprint(1)   \n```\nDone.") is True
    assert correct(program, "```python\nprint(2 - 1)\n```") is None
    assert correct(program, None) is False


def test_options_are_found_wherever_they_stand():
    assert options("Pick: (A)2 (B)3 (C)x y") == {"A": "2", "B": "3", "C": "x y"}
    assert options("A. red\nB. blue") == {"A": "red", "B": "blue"}
    assert options("A man and B. met.") == {}
    assert letters("C.") == {"C"} and letters("CAB") == letters("x") == letters("A" * 500) == frozenset()


def test_kinds_are_told_in_linear_time():
    started = time.process_time()
    for text in (" " * 200_000, "(A) x" + " " * 100_000, "A) " * 60_000, "A, " * 60_000, "prove " * 50_000):
        kind_of(text, text)
        correct(row(text, "B"), text)
    assert time.process_time() - started < 10
