"""The paper's own numbers, from the points that ship with the project."""

import json
from pathlib import Path

import pytest

from s1.evaluation import paper

ROWS = {row.method: row for row in paper.table3()}


@pytest.mark.parametrize("method", ROWS)
def test_every_row_of_table_3_comes_out_to_the_printed_digits(method: str):
    row = ROWS[method]
    assert {
        "runs": str(len(row.scaling_runs)),
        "control_pct": f"{row.control_pct:.0f}",
        "scaling": f"{row.scaling:.0f}",
        "performance_pct": f"{row.performance_pct:.1f}",
    } == row.printed


def test_table_3_has_all_seven_rows():
    assert list(ROWS) == [
        "budget forcing",
        "token-conditional",
        "token-conditional, forced",
        "step-conditional",
        "step-conditional, forced",
        "class-conditional",
        "rejection sampling",
    ]


# What the figures' points print as: thinking tokens -> accuracy, one digit each (figures 1, 4a, 6, 7; tables 12 to 14).
PRINTED = {
    ("1", "MATH500", "budget forcing"): "499 64.0, 984 80.0, 1814 85.6, 2868 90.6, 3200 93.2",
    ("1", "AIME24", "budget forcing"): "500 0.0, 1000 13.3, 2000 30.0, 3933 43.3, 5300 50.0, 6657 53.3, 7320 56.7",
    ("1", "GPQA Diamond", "budget forcing"): "500 37.9, 985 49.5, 1742 51.0, 3231 57.6, 4649 59.6",
    ("4a", "AIME24", "budget forcing"): "1000 13.3, 2000 30.0, 3933 43.3, 5300 50.0, 6657 53.3, 7320 56.7, 8474 56.7",
    ("4b", "GPQA Diamond", "budget forcing"): "344900 51.0, 640000 57.6, 919400 59.6",
    ("4b", "GPQA Diamond", "majority voting"): "127600 45.5, 506200 48.5, 1018500 50.5, 2032300 50.0, 4070600 51.5, "
    "8129500 51.0",
    ("6", "AIME24", "rejection sampling"): "2974 40.0, 3703 36.7, 4344 33.3, 4734 30.0, 5193 26.7, 5293 23.3",
    ("7", "AIME24", "step-conditional"): "2862 30.0, 4979 36.7, 14318 50.0, 23220 33.3",
    ("7", "AIME24", "majority voting"): "14318 50.0, 229085 53.3",
    ("7", "AIME24", "REBASE"): "14318 50.0, 229085 56.7",
}


def test_every_point_of_every_figure_prints_as_in_the_paper():
    found = {
        (curve.figure, curve.benchmark, curve.method): ", ".join(
            f"{tokens:.0f} {accuracy:.1f}" for tokens, accuracy in zip(curve.tokens, curve.accuracy_pct, strict=True)
        )
        for curve in paper.curves()
    }
    assert found == PRINTED


@pytest.mark.parametrize(
    ("method", "accuracies"),
    [
        ("token-conditional", "26.7 30.0 33.3 33.3 40.0"),
        ("token-conditional, forced", "3.3 30.0 33.3 33.3 40.0"),
        ("step-conditional", "33.3 23.3 33.3 36.7 33.3"),
        ("step-conditional, forced", "23.3 23.3 33.3 36.7 33.3"),
        ("class-conditional", "30.0 36.7"),
    ],
)
def test_the_runs_of_tables_12_to_14_print_as_in_the_paper(method: str, accuracies: str):
    assert " ".join(f"{accuracy:.1f}" for accuracy in ROWS[method].accuracy_pct) == accuracies


def test_the_figures_agree_with_the_tables_at_their_ends():
    aime = paper.curves(benchmark="AIME24", figure="1")[0]
    assert round(max(aime.accuracy_pct), 1) == paper.table("table1")["s1-32B"]["AIME24"]
    gpqa = paper.curves(benchmark="GPQA Diamond", figure="1")[0]
    assert round(max(gpqa.accuracy_pct), 1) == paper.table("table1")["s1-32B"]["GPQA Diamond"]
    extrapolated = dict(
        zip(paper.curves(figure="4a")[0].settings, paper.curves(figure="4a")[0].accuracy_pct, strict=True)
    )
    assert round(extrapolated["Wait x2"], 1) == paper.table("table4")["2x Wait"]["AIME24"]
    assert round(extrapolated["natural end"], 1) == paper.table("table2")["selection"]["AIME24"]


def test_the_numbers_name_their_source():
    values = json.loads(Path(paper.__file__).with_name("paper.json").read_text())
    assert "2501.19393" in paper.source()
    assert set(values["source"]) == {"paper", "figures", "solved", "table3"}


def test_tokens_of_all_questions_can_be_had_for_one():
    sequential, voting = (curve.per_question() for curve in paper.curves(figure="4b"))
    assert [round(tokens) for tokens in sequential.tokens] == [1742, 3232, 4643]  # as in figure 1
    assert round(voting.tokens[-1]) == 41058
    thinking = paper.curves(figure="6")[0]
    assert thinking.per_question() == thinking
