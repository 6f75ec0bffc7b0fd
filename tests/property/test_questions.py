"""Laws of collecting: what is kept and held out depends on seed and question only."""

from hypothesis import given
from hypothesis import strategies as st

from s1.hashing import normalise_question
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
