"""Laws of the paired bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.evaluation.bootstrap import bounds, difference, interval, resampled_means, resampled_ratios, share_bounds
from s1.evaluation.metrics import scaling
from s1.evaluation.sheet import slopes

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=30)


@given(OUTCOMES, st.integers(0, 5))
def test_an_interval_holds_its_mean_and_stays_in_range(outcomes: list[bool], seed: int):
    percentages = [100 * outcome for outcome in outcomes]
    found = interval(percentages, resamples=200, seed=seed)
    assert 0 <= found.low < found.high <= 100
    assert found.mean == pytest.approx(100 * sum(outcomes) / len(outcomes))
    assert found == interval(percentages, resamples=200, seed=seed)


@given(OUTCOMES)
def test_a_run_does_not_differ_from_itself(outcomes: list[bool]):
    same = difference(outcomes, outcomes, resamples=50)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert not same.excludes_zero


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_the_other_way_round_is_the_negative(pairs: list[tuple[bool, bool]]):
    run, other = zip(*pairs, strict=True)
    there, back = difference(run, other, resamples=100), difference(other, run, resamples=100)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_the_spread_is_that_of_the_binomial():
    outcomes = np.arange(400) % 2
    found = interval(100 * outcomes)
    assert found.low == pytest.approx(50 - 1.96 * 2.5, abs=0.5)
    assert found.high == pytest.approx(50 + 1.96 * 2.5, abs=0.5)


def test_pairs_show_a_difference_that_separate_intervals_hide():
    base = np.arange(100) < 40
    tuned = np.arange(100) < 48
    assert interval(100 * base, resamples=2000).high > interval(100 * tuned, resamples=2000).low
    assert difference(tuned, base, resamples=2000).excludes_zero


def one_by_one(outcomes: np.ndarray, resamples: int) -> list[np.ndarray]:
    """The same resamples, each drawn and averaged by itself."""
    random = np.random.default_rng(0)
    return [outcomes[random.integers(len(outcomes), size=len(outcomes))].mean(axis=0) for _ in range(resamples)]


def test_all_resamples_together_are_those_that_are_drawn_one_by_one():
    outcomes = np.random.default_rng(0).random((500, 10)) < 0.5
    assert np.allclose(resampled_means(outcomes, resamples=50), one_by_one(outcomes, 50))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=12))
def test_with_as_many_responses_everywhere_ratios_are_means(responses: list[list[bool]]):
    size = min(map(len, responses))
    values = np.array([group[:size] for group in responses], dtype=float)
    sums, counts = values.sum(axis=1, keepdims=True), np.full((len(values), 1), float(size))
    assert np.allclose(resampled_ratios(sums, counts, 40), resampled_means(values.mean(axis=1, keepdims=True), 40))


def test_a_run_without_any_response_has_no_mean():
    draws = resampled_ratios(np.zeros((3, 1)), np.zeros((3, 1)), 10)
    assert np.isnan(draws).all()
    assert all(np.isnan(bounds(draws[:, 0])))


def test_where_all_came_out_alike_the_interval_is_wilsons():
    low, high = share_bounds(np.full(100, 100.0), 60)
    assert (round(low, 1), high) == (94.0, 100.0)
    assert share_bounds(np.linspace(20, 40, 101), 60) == pytest.approx((20.5, 39.5))


@given(st.floats(0, 100), st.integers(1, 60))
def test_an_interval_of_resamples_that_are_all_alike_has_a_width(share: float, num_questions: int):
    low, high = share_bounds(np.full(100, share), num_questions)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 100
    assert high - low > 5


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 100)), min_size=2, max_size=6))
def test_slopes_of_many_resamples_are_the_slope_of_each(runs: list[tuple[int, float]]):
    tokens, accuracy = (list(column) for column in zip(*runs, strict=True))
    (found,) = slopes(np.array([tokens], dtype=float), np.array([accuracy]))
    if len(set(tokens)) > 1:
        assert found == pytest.approx(scaling(tokens, accuracy))
    else:
        assert np.isnan(found)


def test_without_questions_there_is_nothing_to_resample():
    with pytest.raises(ValueError, match="at least one of each"):
        interval([])
