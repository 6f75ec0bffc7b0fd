import pytest

from s1.evaluation.metrics import control, performance, scaling

# AIME24 runs of the paper's methods: thinking tokens and accuracy (arXiv 2501.19393, Table 3 and Figures 1 and 6).
RUNS = {
    "budget forcing": ([500, 1000, 2000, 3933.1, 5300.2, 6656.8, 7319.5], [0, 4, 9, 13, 15, 16, 17], 15),
    "token-conditional": ([7939, 7158, 8263, 7108, 7500], [8, 9, 10, 10, 12], -24),
    "token-conditional + forcing": ([1024, 2048, 4031, 5664, 6330], [1, 9, 10, 10, 12], 13),
    "step-conditional": ([7252, 6277, 5396, 5552, 7551], [10, 7, 10, 11, 10], 3),
    "step-conditional + forcing": ([1517, 2963, 4636, 5409, 7551], [7, 7, 10, 11, 10], 6),
    "class-conditional": ([8033, 9651], [9, 11], 25),
    "rejection sampling": ([3702.9, 4343.8, 4733.8, 5192.7, 5292.9], [11, 10, 9, 8, 7], -35),
}


@pytest.mark.parametrize("method", RUNS)
def test_scaling_reproduces_the_published_table(method):
    tokens, solved_of_30, published = RUNS[method]
    assert round(scaling(tokens, [100 * solved / 30 for solved in solved_of_30])) == published


def test_control_counts_the_runs_inside_the_limits():
    assert control([10, 20, 30, 40], max_tokens=30) == 75
    assert control([10, 20, 30, 40], max_tokens=30, min_tokens=20) == 50
    with pytest.raises(ValueError):
        control([], max_tokens=1)


def test_equal_compute_has_no_slope():
    assert scaling([8, 8], [10, 50]) is None
    assert scaling([8], [10]) is scaling([], []) is None
    assert scaling([8, 16], [10, 50]) == 40


def test_performance_is_the_best_run():
    assert performance([10.0, 56.7, 43.3]) == 56.7
