"""What the figures draw: read back from the axes."""

from typing import Any

import numpy as np
import pytest

from s1.evaluation import paper
from s1.evaluation.report import curves, figures, methods


def run(setting: str, tokens: float, accuracy: float | None, budget: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "setting": setting,
        "budget": budget,
        "mean_thinking_tokens": tokens,
        "mean_total_tokens": tokens + 100,
        "mean_tries": 2.0,
        "accuracy_pct": accuracy,
        "accuracy_interval_pct": [0.0, 100.0],
        **more,
    }


def numbers(**more: Any) -> dict[str, Any]:
    points = [run("max_16", 16, 20.0, 16), run("max_64", 60, 50.0, 64), run("max_4", 0, 0.0, 4), run("x", 9, None)]
    return {"direct": None, "natural": run("natural", 80, 60.0), "points": points, "wait": [], "methods": {}, **more}


def drawn(figure: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))
        for line in figure.axes[0].lines
    }


def test_every_point_is_drawn_over_its_tokens_on_a_log_axis():
    figure = curves.scaling_curve({"tuned": numbers()})
    assert drawn(figure) == {
        "tuned, budget": [(8, 0), (16, 20), (60, 50)],
        "tuned, natural end": [(80, 60)],
    }
    assert figure.axes[0].get_xscale() == "log"
    ticks = figure.axes[0].get_xticklabels()
    assert [(tick.get_position()[0], tick.get_text()) for tick in ticks] == [
        (8, "0"),
        (16, "16"),
        (32, "32"),
        (64, "64"),
    ]


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        ([500, 7300], ["512", "1K", "2K", "4K", "8K"]),
        ([3000, 5000], ["3K", "4K", "6K"]),
        ([2600], ["3K"]),
        ([5, 100_000], ["4", "16", "64", "256", "1K", "4K", "16K", "64K"]),
        ([0, 0], ["0", "2"]),
    ],
)
def test_every_range_of_tokens_has_ticks(tokens: list[float], labels: list[str]):
    points = [run(f"max_{number}", x, 50.0, number) for number, x in enumerate(tokens)]
    axes = curves.scaling_curve({"tuned": numbers(points=points, natural=None)}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == labels


def test_an_answer_without_thinking_stands_at_0():
    found = drawn(curves.scaling_curve({"base": numbers(direct=run("direct", 0, 25.0))}))
    assert found["base, own chat format"] == [(8, 25)]


def test_colours_tell_the_models_and_markers_the_settings():
    figure = curves.scaling_curve({"base": numbers(), "tuned": numbers(wait=[run("wait_1", 99, 55.0)])})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "base",
        "tuned",
        "budget",
        "natural end",
        "Wait",
    ]


@pytest.mark.parametrize("benchmark", paper.benchmarks())
def test_the_paper_s_points_lie_beneath(benchmark: str):
    (published,) = paper.curves(benchmark, "1")
    found = drawn(curves.scaling_curve({"tuned": numbers()}, [published]))
    points = found["paper, budget forcing"]
    assert points == list(zip(published.tokens, published.accuracy_pct, strict=True))
    assert next(iter(found)) == "paper, budget forcing"


@pytest.mark.parametrize("figure", ["4a", "4b", "6", "7"])
def test_the_paper_s_other_figures_can_be_drawn(figure: str):
    published = paper.curves(figure=figure)
    published = [curve.per_question() for curve in published]
    draw = {"4a": curves.scaling_curve, "6": curves.rejection_curve}.get(figure, curves.parallel_curve)
    found = drawn(draw({"tuned": numbers()}, published))
    for curve in published:
        assert found[f"paper, {curve.method}"] == list(zip(curve.tokens, curve.accuracy_pct, strict=True))


def test_samples_stand_beside_the_sequence():
    natural = run(
        "natural",
        80,
        60.0,
        majority_at_k_pct={"1": 60.0, "2": 60.0, "4": 70.0},
        majority_at_k_interval_pct={"1": [40, 80], "2": [40, 80], "4": [50, 90]},
    )
    voting = {"majority_voting": {"runs": [run("vote_8", 80, 75.0, mean_total_tokens=1440)]}}
    found = drawn(curves.parallel_curve({"tuned": numbers(natural=natural, methods=voting)}))
    assert found["tuned, majority of natural"] == [(180, 60), (360, 60), (720, 70)]
    assert found["tuned, voting"] == [(1440, 75)]
    assert found["tuned, sequential"][-1] == (180, 60)


def test_rejection_sampling_says_how_often_it_tried():
    runs = [run("reject_64", 50, 40.0, 64, mean_tries=1.5), run("reject_16", 12, 20.0, 16, mean_tries=9.0)]
    figure = curves.rejection_curve({"tuned": numbers(methods={"rejection_sampling": {"runs": runs}})})
    assert drawn(figure)["tuned, rejection sampling"] == [(12, 20), (50, 40)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["≤ 16: 9.0 tries", "≤ 64: 1.5 tries"]


def test_a_figure_of_nothing_is_still_one():
    empty = {"direct": None, "natural": None, "points": [], "wait": [], "methods": {}}
    assert figures.png(curves.scaling_curve({"tuned": empty})).startswith(b"\x89PNG")


def test_runs_are_drawn_over_each_other():
    found = drawn(curves.comparison({"this": numbers(), "old": numbers(points=[])}))
    assert found["this, budget"][-1] == (60, 50)
    assert found["old, natural end"] == [(80, 60)]


def test_methods_stand_beside_each_other():
    def method(control: float | None, performance: float) -> dict[str, Any]:
        return {
            "control_pct": control,
            "control_interval_pct": None if control is None else [control - 5, control],
            "performance_pct": performance,
            "performance_interval_pct": [performance, performance + 5],
        }

    of_tuned = {"budget_forcing": method(100, 60.0), "majority_voting": method(None, 70.0)}
    figure = methods.method_comparison({"tuned": numbers(methods=of_tuned)})
    control, performance = figure.axes
    assert [text.get_text() for text in control.get_yticklabels()] == ["budget forcing", "majority voting"]
    assert [np.asarray(line.get_xdata()).tolist() for line in control.lines] == [[100]]
    assert [np.asarray(line.get_xdata()).tolist() for line in performance.lines] == [[60], [70]]
    assert methods.comparable({"tuned": numbers(methods=of_tuned)})
    assert not methods.comparable({"tuned": numbers(methods={"budget_forcing": method(100, 60.0)})})
