"""Laws of pass@k, majority@k, majorities and tree widths."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.evaluation.tree import shares
from s1.evaluation.voting import majority, majority_at_k, pass_at_k, sizes

VERDICTS = st.lists(st.booleans(), min_size=1, max_size=8)


def ballots(verdicts: Sequence[bool], wrong: Sequence[str]) -> list[str]:
    return ["right" if verdict else text for verdict, text in zip(verdicts, wrong, strict=False)]


@given(st.integers(1, 30), st.data())
def test_pass_at_k_grows_from_the_accuracy_to_certainty(num_samples: int, data: st.DataObject):
    num_correct = data.draw(st.integers(0, num_samples))
    values = [pass_at_k(num_samples, num_correct, k) for k in range(1, num_samples + 1)]
    assert values[0] == pytest.approx(num_correct / num_samples)
    assert values[-1] == (num_correct > 0)
    assert all(before <= after + 1e-12 for before, after in itertools.pairwise(values))


@given(VERDICTS, st.data())
def test_majority_at_1_is_the_accuracy(verdicts: list[bool], data: st.DataObject):
    wrong = data.draw(st.lists(st.sampled_from("abc"), min_size=len(verdicts), max_size=len(verdicts)))
    votes = ballots(verdicts, wrong)
    assert majority_at_k(votes, verdicts, 1) == pytest.approx(sum(verdicts) / len(verdicts))
    for k in sizes(len(verdicts)):
        assert 0 <= majority_at_k(votes, verdicts, k) <= pass_at_k(len(verdicts), sum(verdicts), k) + 1e-9


@given(VERDICTS)
def test_more_than_half_decide(verdicts: list[bool]):
    votes = ballots(verdicts, ["a"] * len(verdicts))
    found = majority_at_k(votes, verdicts, len(votes))
    assert (
        found
        == {True: 1.0, False: 0.0, None: 0.5}[
            None if 2 * sum(verdicts) == len(verdicts) else 2 * sum(verdicts) > len(verdicts)
        ]
    )


@given(st.lists(st.sampled_from(["1", "1.0", "2", "", "3"]), min_size=1, max_size=12))
def test_a_majority_is_one_of_the_largest_group(answers: list[str]):
    def same(one: str, other: str) -> bool:
        return float(one) == float(other)

    chosen = majority(answers, same)
    given_ = [answer for answer in answers if answer]
    if given_:
        sizes_ = [sum(same(answer, other) for other in given_) for answer in given_]
        assert sum(same(answers[chosen], other) for other in given_) == max(sizes_)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 40))
def test_the_width_is_shared_out_exactly(rewards: list[float], width: int):
    counts = shares(rewards, width)
    assert sum(counts) == width and min(counts) >= 0
    for first, second in zip(range(len(rewards)), range(1, len(rewards)), strict=False):
        if rewards[first] > rewards[second]:
            assert counts[first] >= counts[second]


@given(st.integers(1, 100))
def test_the_sizes_end_with_all_samples(count: int):
    assert sizes(count)[0] == 1 and sizes(count)[-1] == count


@pytest.mark.parametrize("k", [0, 5])
def test_k_is_between_1_and_all(k: int):
    with pytest.raises(ValueError, match=f"k={k}"):
        pass_at_k(4, 2, k)
    with pytest.raises(ValueError, match=f"k={k}"):
        majority_at_k(["a"] * 4, [True] * 4, k)
