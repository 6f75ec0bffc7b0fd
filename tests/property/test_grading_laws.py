from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from s1.grading import equivalent
from s1.grading.extract import boxes, final_answer, last_boxed
from s1.grading.normalise import normalise
from s1.grading.rational import rational

numbers = st.integers(-(10**9), 10**9)
fractions = st.fractions(max_denominator=10**4)


@st.composite
def expressions(draw, depth: int = 3) -> tuple[str, Fraction | None]:
    """An arithmetic expression and its exact value, None where it divides by zero."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 500))
        return str(number), Fraction(number)
    (left, a), (right, b) = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    operator = draw(st.sampled_from("+-*/"))
    text = f"({left}) {operator} ({right})"
    if a is None or b is None or (operator == "/" and b == 0):
        return text, None
    return text, {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[operator]


@given(expressions())
def test_arithmetic_is_exact(expression):
    text, value = expression
    assert rational(text) == value


@given(fractions)
def test_one_number_in_many_notations(value: Fraction):
    top, bottom = value.numerator, value.denominator
    sign = "-" if top < 0 else ""
    for text in (
        f"{top}/{bottom}",
        f"\\boxed{{{sign}\\frac{{{abs(top)}}}{{{bottom}}}}}",
        f"So we get there.\n\nAnswer: ${sign}\\dfrac{{{abs(top)}}}{{{bottom}}}$",
        f"The answer is {2 * top}/{2 * bottom}.",
    ):
        assert equivalent(str(value), text)


@given(numbers, numbers)
def test_integers_are_equal_only_to_themselves(left: int, right: int):
    assert equivalent(str(left), f"Answer: {right:,}") == (left == right)


@given(st.text(alphabet="ab{}\\ $,1", max_size=40))
@settings(max_examples=300)
def test_a_closed_box_gives_back_what_is_in_it(text: str):
    found = boxes(f"We have \\boxed{{{text}}}")
    if found[0].end is None:
        assert last_boxed(f"We have \\boxed{{{text}}}") is None
    else:
        assert text.startswith(found[0].content)


@given(st.text(max_size=200))
def test_any_text_has_a_final_answer_and_a_normal_form(text: str):
    assert isinstance(final_answer(text), str)
    assert isinstance(normalise(text), str)
