"""What a report is made of, and what it refuses."""

from typing import Any

import numpy as np
import pytest
from report_cases import generations

from jobs.report import JOB, ReportOptions
from s1.artifacts import Manifest
from s1.errors import UserError
from s1.evaluation import metrics
from s1.evaluation.display import UNKNOWN
from s1.evaluation.questions import choose
from s1.evaluation.report import figures, numbers
from s1.evaluation.report.abstract import abstract
from s1.evaluation.report.transcripts import transcripts


def test_the_funnel_takes_the_reasons_off_one_by_one():
    stages = [
        Manifest("collect", "", {}, {}, "", 14, 12, dropped={"duplicate": 2, "other": 0}),
        Manifest("distill", "", {}, {}, "", 10, 7, dropped={"declined": 2}),
    ]
    assert numbers.funnel(stages) == [
        ("collect: in", 14),
        ("without duplicate", 12),
        ("distill: in", 10),
        ("without declined", 8),
        ("distill: out", 7),
    ]


def test_transcripts_show_what_budgets_do():
    shown = transcripts(generations().to_pylist(), 3)
    assert [transcript.question for transcript in shown] == [*dict.fromkeys(t.question for t in shown)]
    first = shown[0]
    assert "right" in first.why
    titles = [response.title for response in first.responses]
    assert titles == [
        "tuned, at most 4 thinking tokens",
        "tuned, at most 16 thinking tokens",
        "tuned, natural end",
        "tuned, one Wait",
        "base, own chat format",
    ]
    assert [response.correct for response in first.responses][:3] == [False, True, True]
    assert first.responses[0].segments[1] == ("\nFinal Answer:", True)
    assert transcripts([], 3) == ()
    without = [row for row in generations().to_pylist() if row["setting"] != "direct"]
    assert transcripts(without, 1)[0].responses[-1].title == "base, natural end"
    alone = [row for row in generations().to_pylist() if row["model"] == "base"]
    assert [response.title for response in transcripts(alone, 1)[0].responses][-1] == "base, own chat format"
    assert len(transcripts(generations().to_pylist(), 100)) == 8


def test_questions_of_every_domain_are_asked_in_turn():
    rows = [{"question_id": f"{domain}{number}", "domain": domain} for domain in ("a", "b", "c") for number in range(5)]
    chosen = choose(rows, {"a", "b"}, 4)
    assert [row["question_id"] for row in chosen.questions] == ["a0", "b0", "a1", "b1"]
    assert chosen == choose(rows[::-1], {"a", "b"}, 4)
    assert chosen.dropped == {"other domains": 5, "over num_questions": 6}
    assert len(choose(rows, None, None).questions) == 15


def test_the_first_paragraph_does_not_take_scaling_for_the_slope_between_its_two_budgets():
    """A mean over all pairs may lie far from what two of them show: one pair that hardly differs outweighs the rest."""
    runs = [(4, 4.0, 0.0), (16, 16.0, 5.0), (32, 32.0, 10.0), (48, 34.0, 20.0)]
    points = [
        {"budget": budget, "mean_thinking_tokens": tokens, "accuracy_pct": accuracy}
        for budget, tokens, accuracy in runs
    ]
    scaling = metrics.scaling([tokens for _, tokens, _ in runs], [accuracy for *_, accuracy in runs])
    assert scaling is not None and round(scaling, 1) == 24.2
    model = {"direct": None, "natural": None, "points": points, "wait": [], "scaling": scaling, "methods": {}}
    assert abstract({"models": {"m": model}, "stages": {}, "gain": None}, "m") == (
        "With a budget of 4 m thinks 4.0 tokens on average and gets 0.0% right; with one of 48 it thinks 34.0 tokens "
        "on average and gets 20.0% right: +6.5 points per doubling between the two.",
        "Scaling, the mean slope over all pairs of budgets, is +24.2 points per doubling.",
    )
    idle = [point | {"mean_thinking_tokens": 0.0} for point in points]
    (sentence,) = abstract(
        {"models": {"m": model | {"points": idle, "scaling": None}}, "stages": {}, "gain": None}, "m"
    )
    assert "doubling" not in sentence and "None" not in sentence


def test_a_table_shows_a_dash_for_what_is_not_known():
    rows = [{"control_pct": None, "scaling": 0.0}]
    assert numbers.as_markdown(rows, ["control_pct", "scaling"]).splitlines()[-1] == f"| {UNKNOWN} | 0.0 |"
    assert numbers.as_csv(rows, ["control_pct", "scaling"]).splitlines()[-1] == ",0.0"


def test_the_map_is_the_same_for_the_same_points():
    points = np.random.default_rng(1).normal(size=(40, 5))
    plane, explained = figures.principal_plane(points)
    turned, _ = figures.principal_plane(points[::-1])
    assert plane.shape == (40, 2)
    assert np.allclose(plane, turned[::-1])
    assert explained[0] >= explained[1] > 0


def test_the_running_mean_of_the_last_values():
    assert figures.running_mean([1, 3, 5], 2).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paper": ("AIME26",)}, "the paper has points of AIME24"),
        ({"compare": ("nowhere",)}, "nowhere holds no generations"),
        ({"lm_eval": ("nowhere",)}, "no such file or folder"),
        ({"compare": ("a/laptop", "b/laptop")}, "b/laptop is called 'laptop'.*use NAME=b/laptop"),
        ({"compare": ("old=a",), "lm_eval": ("old=b",)}, "b is called 'old'"),
        ({"compare": ("tuned=a",)}, "a is called 'tuned'"),
        ({"compare": ("runs/base",)}, "use NAME=runs/base"),
    ],
)
def test_what_cannot_be_shown_is_said_first(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        JOB.check(ReportOptions.model_validate(options))
