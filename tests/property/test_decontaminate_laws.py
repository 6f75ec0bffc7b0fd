from hypothesis import given
from hypothesis import strategies as st

from s1.curation.decontaminate import contaminated, normalised_words, touched, words

# Few words, so that runs are shared; white space of all kinds, and letters whose lower case is longer.
texts = st.lists(
    st.lists(st.sampled_from(["a", "B", "b", "$x$", "İ", "ß", "x\u00a0y", "1.5", "\\frac12"]), max_size=12).map(
        lambda parts: " ".join(parts)
    )
    | st.text(alphabet="ab \n\t\u2003", max_size=24),
    max_size=6,
)


def straightforward(questions: list[str], tests: list[str], ngram: int, split=words) -> list[int]:
    """The first test question that shares an n-gram, by comparing all with all."""

    def grams(text: str) -> set[tuple[str, ...]]:
        parts = split(text)
        return {tuple(parts[at : at + ngram]) for at in range(len(parts) - ngram + 1)}

    indexed = [grams(text) for text in tests]
    return [next((at for at, own in enumerate(indexed) if own & grams(question)), -1) for question in questions]


@given(texts, texts, st.integers(1, 4))
def test_verdicts_are_those_of_comparing_all_with_all(questions: list[str], tests: list[str], ngram: int):
    expected = [hit >= 0 for hit in straightforward(questions, tests, ngram)]
    assert contaminated(questions, tests, ngram).tolist() == expected


@given(texts, texts, st.integers(1, 4))
def test_normalised_verdicts_too(questions: list[str], tests: list[str], ngram: int):
    expected = [hit >= 0 for hit in straightforward(questions, tests, ngram, normalised_words)]
    assert contaminated(questions, tests, ngram, normalise=True).tolist() == expected


def covered(question: str, test: str, ngram: int) -> float:
    """Share of the shorter text that shared runs make up: marks every word of the question that is in one."""
    parts, others = words(question), words(test)
    grams = {tuple(others[at : at + ngram]) for at in range(len(others) - ngram + 1)}
    marked = {
        at + offset
        for at in range(len(parts) - ngram + 1)
        if tuple(parts[at : at + ngram]) in grams
        for offset in range(ngram)
    }
    return min(1.0, len(marked) / min(len(parts), len(others))) if marked else 0.0


@given(texts, texts, st.integers(1, 4), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_coverage_is_that_of_marking_word_by_word(questions: list[str], tests: list[str], ngram: int, coverage: float):
    for question, hit in zip(questions, touched(questions, tests, ngram, coverage=coverage).tolist(), strict=True):
        shares = [covered(question, test, ngram) for test in tests]
        assert (hit >= 0) == any(share >= coverage for share in shares)
        assert hit == -1 or shares[hit] == max(shares)


@given(texts, texts)
def test_a_hit_names_a_test_question_that_shares_the_run(questions: list[str], tests: list[str]):
    for question, hit in zip(questions, touched(questions, tests, 3).tolist(), strict=True):
        assert hit == -1 or straightforward([question], [tests[hit]], 3) == [0]
