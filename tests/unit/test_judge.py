import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.grading.judge import prompt, verdict


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("They agree.\nYes", True),
        ("They differ.\n\n**No**\n", False),
        ("Yes.", True),
        ("The values are equal.\nVerdict: Yes", True),
        ("So the answer is \\boxed{\\text{No}}", False),
        ('{"correct": true}', True),
        ('```json\n{"verdict": "no"}\n```', False),
        ("The student's answer is incorrect.", False),
        ("The attempt is not correct.", False),
        ("The student found 5, the reference has 7.\nVerdict: no\nThank you.", False),
        ("Correct", True),
        ("NO", False),
        ("Final verdict: **Yes** - although no step is shown, the result is right.", True),
        ("Verdict: correct", True),
        ("Correct: true", True),
        ("Verdict: Yes (all steps hold)", True),
        ("(No)", False),
        ("<answer>Yes</answer>", True),
        ("The final answer is: $\\boxed{Yes}$", True),
        ("No, the correct answer is 7.", False),
        ("The student\u2019s final answer is correct.", True),
        ("It matches the reference, no issues.", None),
        ("The answer matches; there is no difference.", None),
        ("The student is not wrong.", None),
        ("Not quite right", None),
        ("No issues.", None),
        ("Verdict: no errors", None),
        ("Right, so the student has 5 and the reference 7.", None),
        ("Yes, but the final result is wrong.", None),
        ("No - it is not wrong.", None),
        ("The student's answer is No.", None),
        ("The answer is correct only if x > 0.", None),
        ("Verdict: yes. Verdict: no.", None),
        ("", None),
        ("I cannot decide.", None),
        ("Yes or no? Hard to say.", None),
        ("The student knows a lot about yeast.", None),
    ],
)
def test_verdicts_are_read_whatever_their_decoration(reply: str, expected: bool | None):
    assert verdict(reply) is expected


@given(st.text())
def test_any_reply_is_read(reply: str):
    assert verdict(reply) in (True, False, None)


def test_the_judge_sees_all_three_and_is_told_when_it_was_unclear():
    first, second = (prompt("What is {x}?", "7", "I say 7.", number) for number in (1, 2))
    assert all(part in first for part in ("What is {x}?", "7", "I say 7."))
    assert second.startswith(first) and second != first
    assert len(prompt("q" * 10**6, "r" * 10**6, "a" * 10**6)) < 10**5
