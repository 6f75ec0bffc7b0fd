from typing import Any

import pytest

from s1 import schema
from s1.evaluation.summary import gain, short_table, summarise, wilson


def rows(model: str, setting: str, budget: int | None, verdicts: list[bool | None], tokens: list[int], waits: int = 0):
    return [
        {
            "question_id": str(number),
            "model": model,
            "setting": setting,
            "max_thinking_tokens": budget,
            "num_ignore": waits,
            "correct": correct,
            "thinking_tokens": count,
            "ended_by": "natural",
        }
        for number, (correct, count) in enumerate(zip(verdicts, tokens, strict=True))
    ]


def summary(*groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return summarise(schema.to_table([row for group in groups for row in group], schema.GENERATIONS))


def test_the_numbers_of_a_model():
    numbers = summary(
        rows("tuned", "natural", 64, [True, True, True, False], [30, 40, 20, 64]),
        rows("tuned", "max_16", 16, [True, True, False, False], [16, 16, 16, 16]),
        rows("tuned", "max_4", 4, [False, False, False, False], [4, 4, 4, 4]),
        rows("tuned", "wait_1", 64, [True, True, True, True], [50, 50, 50, 50], waits=1),
    )["tuned"]
    assert numbers["natural"]["accuracy_pct"] == 75
    assert (numbers["natural"]["mean_thinking_tokens"], numbers["natural"]["max_thinking_tokens"]) == (38.5, 64)
    assert [(point["budget"], point["accuracy_pct"]) for point in numbers["points"]] == [(4, 0), (16, 50)]
    assert [(run["num_ignore"], run["accuracy_pct"]) for run in numbers["wait"]] == [(1, 100)]
    assert numbers["scaling"] == 25  # 50 points over two doublings
    assert numbers["control_pct"] == 100
    assert numbers["performance_pct"] == 100


def test_a_response_beyond_its_own_budget_costs_control():
    numbers = summary(
        rows("base", "natural", None, [True], [900]),
        rows("base", "max_4", 4, [True] * 3, [4, 5, 0]),
    )["base"]
    assert numbers["control_pct"] == pytest.approx(200 / 3)


def test_without_a_reference_there_is_no_accuracy_but_still_tokens():
    numbers = summary(rows("base", "natural", None, [None], [9]), rows("base", "max_4", 4, [None], [4]))["base"]
    assert numbers["natural"]["accuracy_pct"] is None
    assert numbers["points"][0]["mean_thinking_tokens"] == 4
    assert (numbers["scaling"], numbers["performance_pct"], numbers["control_pct"]) == (None, None, 100)


def test_a_budget_that_brought_no_thinking_has_no_slope():
    numbers = summary(rows("base", "max_0", 0, [True], [0]), rows("base", "max_4", 4, [True], [4]))["base"]
    assert numbers["scaling"] == 0
    assert summary(rows("base", "max_4", 4, [True], [0]))["base"]["scaling"] == 0


def test_the_gain_counts_the_questions_of_both_models():
    base, tuned = (
        rows("base", "natural", None, [False] * 10, [9] * 10),
        rows("tuned", "natural", None, [True] * 8, [9] * 8),
    )
    found = gain(schema.to_table([*base, *tuned], schema.GENERATIONS))
    assert found is not None
    assert (found["difference_pct"], found["interval_pct"], found["num_questions"]) == (100, [100, 100], 8)
    assert gain(schema.to_table(base, schema.GENERATIONS)) is None


def test_the_interval_of_a_share():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_the_table_for_the_terminal():
    text = short_table(
        summary(
            rows("base", "natural", 64, [False], [9]),
            rows("base", "max_4", 4, [None], [4]),
            rows("tuned", "natural", 64, [True], [9]),
            rows("tuned", "max_4", 4, [False], [4]),
        )
    )
    assert text.splitlines() == [
        "                base   tuned",
        "max 4 tokens       -    0.0%",
        "natural end     0.0%  100.0%",
        "control       100.0%  100.0%",
        "scaling            -    +0.0",
        "performance     0.0%  100.0%",
    ]
