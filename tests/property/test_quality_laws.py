import re

from hypothesis import given, settings
from hypothesis import strategies as st

from s1.curation.quality import has_bold_number, issues


@given(st.text(alphabet="*1 a]\t", max_size=30))
@settings(max_examples=500)
def test_bold_numbers_are_those_of_the_reference(line: str):
    assert has_bold_number(line) == bool(re.search(r"\*\*(?=.*\d)[^\s\]]*\*\*", line))


@given(st.text(), st.text(), st.text(), st.none() | st.text())
def test_any_text_has_a_verdict(question: str, thinking: str, attempt: str, answer: str | None):
    row = {"question": question, "thinking": thinking, "attempt": attempt, "answer": answer}
    assert ("empty_attempt" in issues(row)) == (not attempt.strip())
