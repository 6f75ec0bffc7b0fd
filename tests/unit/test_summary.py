from math import hypot
from typing import Any

import pytest

from s1 import schema
from s1.evaluation.bootstrap import wilson
from s1.evaluation.display import UNKNOWN, run_label, short_table
from s1.evaluation.summary import by_benchmark, compared, gain, summarise


def rows(
    model: str,
    setting: str,
    budget: int | None,
    verdicts: list[bool | None],
    tokens: list[int],
    waits: int = 0,
    **more: Any,
):
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
            **more,
        }
        for number, (correct, count) in enumerate(zip(verdicts, tokens, strict=True))
    ]


def summary(*groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return summarise(schema.to_table([row for group in groups for row in group], schema.GENERATIONS), resamples=500)


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
    assert numbers["control_pct"] == pytest.approx(200 / 3, abs=1e-3)


def test_without_a_reference_there_is_no_accuracy_but_still_tokens():
    numbers = summary(rows("base", "natural", None, [None], [9]), rows("base", "max_4", 4, [None], [4]))["base"]
    assert numbers["natural"]["accuracy_pct"] is None
    assert numbers["points"][0]["mean_thinking_tokens"] == 4
    assert (numbers["scaling"], numbers["performance_pct"], numbers["control_pct"]) == (None, None, 100)


@pytest.mark.parametrize("tokens", [(0, 4), (0, 0), (4, 4)])
def test_scaling_is_not_defined_without_two_budgets_that_differ_in_thinking(tokens: tuple[int, int]):
    numbers = summary(*(rows("base", f"max_{at}", 8 + at, [True], [count]) for at, count in enumerate(tokens)))["base"]
    assert numbers["scaling"] is numbers["scaling_interval"] is None
    assert numbers["methods"]["budget_forcing"]["scaling"] is None


def test_control_is_not_defined_when_nothing_was_capped():
    numbers = summary(rows("base", "natural", None, [True], [9]))["base"]
    assert numbers["control_pct"] is numbers["control_interval_pct"] is None
    assert numbers["methods"]["budget_forcing"]["control_pct"] is None


def test_the_gain_counts_the_questions_of_both_models():
    base, tuned = (
        rows("base", "natural", None, [False] * 10, [9] * 10),
        rows("tuned", "natural", None, [True] * 8, [9] * 8),
    )
    found = gain(schema.to_table([*base, *tuned], schema.GENERATIONS))
    assert found is not None
    assert (found["difference_pct"], found["interval_pct"], found["num_questions"]) == (100, [100, 100], 8)
    assert found["beside_setting"] == "natural"
    assert gain(schema.to_table(base, schema.GENERATIONS)) is None


def test_the_own_chat_format_is_what_the_gain_is_measured_against():
    base = rows("base", "direct", None, [True, False, False, False], [0] * 4, method="direct")
    base += rows("base", "natural", None, [False] * 4, [9] * 4)
    tuned = rows("tuned", "natural", None, [True, True, True, False], [9] * 4)
    found = gain(schema.to_table([*base, *tuned], schema.GENERATIONS))
    assert found is not None
    assert (found["beside"], found["beside_setting"], found["difference_pct"]) == ("base", "direct", 50)


def test_the_own_chat_format_is_no_method():
    numbers = summary(
        rows("base", "direct", None, [True], [0], method="direct"),
        rows("base", "natural", 64, [False], [9]),
    )["base"]
    assert (numbers["direct"]["accuracy_pct"], numbers["natural"]["accuracy_pct"]) == (100, 0)
    assert list(numbers["methods"]) == ["budget_forcing"]
    assert numbers["performance_pct"] == 0
    assert (numbers["control_pct"], numbers["methods"]["budget_forcing"]["num_runs"]) == (100, 1)
    assert short_table({"base": numbers}).splitlines()[1:3] == ["own chat format  100.0%", "natural end        0.0%"]
    both = short_table({"a": numbers | {"direct": None}, "base": numbers}).splitlines()
    assert both[1].split()[-2:] == [UNKNOWN, "100.0%"]


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
        f"max 4 tokens       {UNKNOWN}    0.0%",
        "natural end     0.0%  100.0%",
        "control       100.0%  100.0%",
        f"scaling            {UNKNOWN}       {UNKNOWN}",
        "performance     0.0%  100.0%",
    ]


def asked(
    setting: str, most: int | None, tokens: list[int], method: str = "token_conditional", least: int | None = None
):
    more = {"method": method, "asked_max_tokens": most, "asked_min_tokens": least}
    return rows("tuned", setting, 128, [True] * len(tokens), tokens, **more)


def test_control_of_a_conditional_method_is_measured_by_what_it_asks_for():
    numbers = summary(
        rows("tuned", "max_16", 16, [True] * 8, [16] * 8),
        asked("tokens_16", 16, [10, 16, 17, 40, 60, 61, 62, 63]),
    )["tuned"]
    assert numbers["control_pct"] == 100
    low, high = numbers["control_interval_pct"]
    assert 60 < low < high == 100
    method = numbers["methods"]["token_conditional"]
    assert method["control_pct"] == 25
    assert method["control_interval_pct"][0] < 25 < method["control_interval_pct"][1]
    assert method["control_lead_of_budget_forcing"]["difference_pct"] == 75
    assert method["control_lead_of_budget_forcing"]["significant"]
    assert [run["setting"] for run in method["runs"]] == ["tokens_16"]


def test_a_lead_without_any_spread_still_has_an_interval():
    numbers = summary(
        rows("tuned", "max_16", 16, [True] * 8, [16] * 8),
        asked("tokens_16", 16, [60] * 8),
    )["tuned"]
    lead = numbers["methods"]["token_conditional"]["control_lead_of_budget_forcing"]
    assert lead["difference_pct"] == 100 and lead["significant"]
    assert 40 < lead["interval_pct"][0] < lead["interval_pct"][1] == 100


def test_the_lead_counts_the_questions_that_the_method_was_asked_too():
    numbers = summary(
        rows("tuned", "max_16", 16, [True] * 12, [16] * 2 + [17] * 10),
        asked("tokens_16", 16, [10, 60]),
    )["tuned"]
    assert numbers["control_pct"] == pytest.approx(100 * 2 / 12, abs=1e-3)
    assert numbers["methods"]["token_conditional"]["control_lead_of_budget_forcing"]["difference_pct"] == 50


def test_without_a_question_of_both_there_is_no_lead():
    others = [row | {"question_id": "other"} for row in asked("tokens_16", 16, [10])]
    methods = summary(rows("tuned", "max_16", 16, [True], [16]), others)["tuned"]["methods"]
    assert methods["token_conditional"]["control_lead_of_budget_forcing"] is None


def test_a_lead_of_two_that_came_out_alike_lies_around_their_share():
    """Both keep to what is asked in the same 4 of 12 questions: no difference, as uncertain one way as the other."""
    tokens = [16] * 4 + [17] * 8
    numbers = summary(rows("tuned", "max_16", 16, [True] * 12, tokens), asked("tokens_16", 16, tokens))["tuned"]
    lead = numbers["methods"]["token_conditional"]["control_lead_of_budget_forcing"]
    low, high = numbers["control_interval_pct"]
    spread = hypot(100 / 3 - low, high - 100 / 3)
    assert (lead["difference_pct"], lead["significant"]) == (0, False)
    assert lead["interval_pct"] == pytest.approx([-spread, spread], abs=1e-2)


def test_short_and_long_are_measured_by_the_natural_end():
    numbers = summary(
        rows("tuned", "natural", 128, [True] * 4, [40, 40, 60, 60]),
        asked("class_short", None, [30, 40, 50, 60], "class_conditional"),
        asked("class_long", None, [30, 40, 50, 60], "class_conditional"),
        asked("class_short_forced", 20, [20, 20, 20, 20], "class_conditional_forced"),
        asked("class_long_forced", None, [55, 70, 70, 70], "class_conditional_forced", least=60),
    )["tuned"]
    assert numbers["methods"]["class_conditional"]["control_pct"] == 62.5  # 50 tokens is both: 3 of 4, 2 of 4
    assert numbers["methods"]["class_conditional_forced"]["control_pct"] == 87.5


def test_samples_give_pass_and_majority_at_k():
    group = [
        row | {"sample": sample, "content": content, "correct": content == "Answer: 4"}
        for sample, content in enumerate(["Answer: 4", "Answer: 5", "Answer: 4", "Answer: 7"])
        for row in rows("tuned", "natural", 64, [None] * 2, [10, 20])
    ]
    natural = summary(group)["tuned"]["natural"]
    assert (natural["num_questions"], natural["num_responses"], natural["accuracy_pct"]) == (2, 8, 50)
    assert natural["pass_at_k_pct"] == {"1": 50, "2": pytest.approx(100 * 5 / 6, abs=1e-3), "4": 100}
    assert natural["majority_at_k_pct"]["4"] == 100
    assert natural["majority_at_k_pct"]["1"] == 50
    # Both questions came out alike: resampling shows no spread, and yet two questions say little.
    for name in ("pass_at_k", "majority_at_k"):
        low, high = natural[f"{name}_interval_pct"]["4"]
        assert 30 < low < 40 and high == 100
    assert natural["thinking_tokens_interval"] == [10, 20]


def test_what_did_not_fit_is_counted_as_wrong():
    natural = summary(
        rows("tuned", "natural", 64, [True], [10]),
        [row | {"question_id": "long"} for row in rows("tuned", "natural", 64, [False], [0], ended_by="overflow")],
    )["tuned"]["natural"]
    assert (natural["num_overflowed"], natural["accuracy_pct"]) == (1, 50)


def test_every_benchmark_has_numbers_of_its_own():
    table = schema.to_table(
        [
            *rows("tuned", "natural", 64, [True], [10], source="benchmark:aime24", domain="aime24"),
            *rows("tuned", "natural", 64, [False], [20], source="benchmark:math500", domain="math500"),
        ],
        schema.GENERATIONS,
    )
    found = by_benchmark(table, resamples=50)
    assert {name: part["tuned"]["natural"]["accuracy_pct"] for name, part in found.items()} == {
        "aime24": 100,
        "math500": 0,
    }
    assert by_benchmark(schema.to_table(rows("tuned", "natural", 64, [True], [10]), schema.GENERATIONS)) == {}


def test_the_interval_of_a_slope_holds_it():
    verdicts = [[number % 4 < more for number in range(40)] for more in (1, 2, 3)]
    numbers = summary(
        *(rows("tuned", f"max_{4 << at}", 4 << at, right, [4 << at] * 40) for at, right in enumerate(verdicts))
    )["tuned"]
    assert numbers["scaling"] == 25
    low, high = numbers["scaling_interval"]
    assert 10 < low < 25 < high < 40


def test_runs_are_compared_on_common_questions():
    found = compared("a", {"1": 1.0, "2": 1.0, "3": 0.5}, "b", {"2": 0.0, "3": 0.5, "4": 1.0})
    assert found is not None
    assert (found["difference_pct"], found["num_questions"]) == (50, 2)
    assert compared("a", {"1": 1.0}, "b", {"2": 1.0}) is None


def test_settings_have_names_for_people():
    assert run_label("wait_2") == "Wait x2"
    assert run_label("tokens_16_forced") == "tokens 16 forced"
