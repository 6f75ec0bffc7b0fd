"""Laws of collecting: what is kept and held out depends on seed and question only."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.hashing import normalise_question, question_id
from s1.sources.mapping import RawQuestion, split_worked_answer
from s1.sources.table import collect

QUESTIONS = st.lists(
    st.builds(
        RawQuestion,
        question=st.text(min_size=1, max_size=6),
        answer=st.none(),
        source=st.just("files:x"),
        domain=st.sampled_from([None, "a", "b"]),
    ),
    max_size=40,
    unique_by=lambda raw: normalise_question(raw.question),
)


@given(text=st.text(st.characters(max_codepoint=127)))
def test_a_question_in_ascii_is_its_words_in_lower_case(text):
    assert normalise_question(text) == " ".join(text.lower().split())


@given(text=st.text())
def test_spelling_does_not_make_another_question(text):
    for form in ("NFC", "NFD"):
        assert question_id(unicodedata.normalize(form, text)) == question_id(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3\u00b2?", "What is 32?"),
        ("Find x\u2081\u2082.", "Find x12."),
        ("Take 1\u00bd cups.", "Take 11\u20442 cups."),
        ("Is f onto \u211d?", "Is f onto R?"),
        ("What is \u2460 + 1?", "What is 1 + 1?"),
        ("An area of 5 \u33a1?", "An area of 5 m2?"),
    ],
)
def test_characters_that_mean_another_thing_make_another_question(one, other):
    assert question_id(one) != question_id(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\uff37hat is \uff11 + \uff11\uff1f", "What is 1 + 1?"),
        ("What is\u00a01\u2009+\u30001?", "What is 1 + 1?"),
        ("How di\ufb03cult is it\u2026", "How difficult is it..."),
        ("Who was E\u0301variste?", "Who was \u00c9variste?"),
        ("WHAT  IS\n1 + 1?", "What is 1 + 1?"),
    ],
)
def test_other_spellings_of_one_question_are_one_question(one, other):
    assert question_id(one) == question_id(other)


def test_ids_stay_what_they_are():
    assert question_id("What is 1 + 1?") == "99f829c3d56f0593"
    assert question_id("Qui \u00e9tait  \u00c9variste\u00a0Galois?") == "2fc5f46db805c8fe"


@given(raw=QUESTIONS, seed=st.integers(0, 3), num_test=st.integers(0, 4), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_neither_the_sample_nor_the_split(raw, seed, num_test, order):
    shuffled = list(raw)
    order.shuffle(shuffled)
    first, second = (
        {(row["question_id"], row["split"]) for row in collect(rows, seed, num_test, 10).rows}
        for rows in (raw, shuffled)
    )
    assert first == second


@given(raw=QUESTIONS, num_test=st.integers(0, 4))
def test_every_domain_gives_its_test_questions_and_keeps_at_least_half(raw, num_test):
    rows = collect(raw, 0, num_test).rows
    for domain in (None, "a", "b"):
        splits = [row["split"] for row in rows if row["domain"] == domain]
        assert splits.count("test") == min(num_test, len(splits) // 2)


@given(raw=QUESTIONS, times=st.integers(1, 3))
def test_repetitions_are_dropped_and_everything_is_counted(raw, times):
    collected = collect(raw * times, 0, 0)
    assert [row["question"] for row in collected.rows] == [question.question for question in raw]
    assert collected.num_met == len(collected.rows) + sum(collected.dropped.values())


@given(
    solution=st.text("abc 12\n#", min_size=1).map(str.strip).filter(lambda text: text and "####" not in text),
    answer=st.text("0123456789.,-/", min_size=1),
)
def test_a_worked_answer_is_split_at_its_four_hashes(solution, answer):
    if solution.endswith("#"):
        return
    assert split_worked_answer(f"{solution}\n#### {answer}", None) == (answer, solution)
    assert split_worked_answer(f"{solution}\n#### {answer}", "given") == (answer, "given")
