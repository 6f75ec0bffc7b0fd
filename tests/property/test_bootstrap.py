"""Laws of the paired bootstrap."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.evaluation.bootstrap import difference, interval, resampled_means

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=30)


@given(OUTCOMES, st.integers(0, 5))
def test_an_interval_holds_its_mean_and_stays_in_range(outcomes: list[bool], seed: int):
    found = interval(outcomes, resamples=200, seed=seed)
    assert 0 <= found.low <= found.high <= 1
    assert found.mean == pytest.approx(sum(outcomes) / len(outcomes))
    assert found == interval(outcomes, resamples=200, seed=seed)


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
    found = interval(outcomes)
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_pairs_show_a_difference_that_separate_intervals_hide():
    base = np.arange(100) < 40
    tuned = np.arange(100) < 48
    assert interval(base, resamples=2000).high > interval(tuned, resamples=2000).low
    assert difference(tuned, base, resamples=2000).excludes_zero


def test_ten_runs_over_five_hundred_questions_take_less_than_two_seconds():
    outcomes = np.random.default_rng(0).random((500, 10)) < 0.5
    started = time.process_time()
    assert resampled_means(outcomes).shape == (10_000, 10)
    assert time.process_time() - started < 2


def test_without_questions_there_is_nothing_to_resample():
    with pytest.raises(ValueError, match="at least one of each"):
        interval([])
