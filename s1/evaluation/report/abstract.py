"""What a run has found, in a few sentences: the report's first paragraph. Every number follows from `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from s1.evaluation import metrics
from s1.evaluation.display import percent, signed
from s1.evaluation.settings import BUDGET_FORCING, DIRECT, NATURAL

OURS = ("tuned", "base")
_AXES = ("mean_thinking_tokens", "accuracy_pct")


def abstract(found: Mapping[str, Any], main: str) -> tuple[str, ...]:
    """Sentences about `main`, the model that the run is about, from what `numbers.metrics` has `found`."""
    models = found["models"]
    numbers = models[main]
    return (
        *_data(found["stages"]),
        *_natural(main, models, found["gain"]),
        *_budgets(main, numbers),
        *_waits(numbers),
        *_control(numbers["methods"]),
    )


def called(model: str) -> str:
    """How a sentence speaks of a model."""
    return f"the {model} model" if model in OURS else model


def _data(stages: Mapping[str, Any]) -> Iterator[str]:
    if "collect" in stages and "train" in stages:
        questions, traces = stages["collect"]["rows_in"], stages["train"]["rows_out"]
        yield f"Of {questions:,} questions, {traces:,} were selected with their traces to train on."


def _natural(main: str, models: Mapping[str, Any], gain: Mapping[str, Any] | None) -> Iterator[str]:
    run = models[main]["natural"]
    if run is None or run["accuracy_pct"] is None:
        return
    sentence = (
        f"Left to end its thinking itself, {called(main)} answers {percent(run['accuracy_pct'])} of "
        f"{run['num_questions']:,} unseen questions (95% interval {_between(run['accuracy_interval_pct'])})"
    )
    if gain is not None and gain["model"] == main:
        natural, direct = (models[gain["beside"]][name] for name in (NATURAL, DIRECT))
        sentence += f", {called(gain['beside'])} {percent((direct or natural)['accuracy_pct'])}"
        if direct:
            sentence += " in its own chat format"
        if direct and natural:
            sentence += f" and {percent(natural['accuracy_pct'])} in the format that {called(main)} was trained in"
    yield f"{sentence}."


def _budgets(main: str, numbers: Mapping[str, Any]) -> Iterator[str]:
    points = [point for point in numbers["points"] if point["accuracy_pct"] is not None]
    if len(points) < 2:
        return
    least, most = points[0], points[-1]
    sentence = f"With a budget of {_held(called(main), least)}; with one of {_held('it', most)}"
    if 0 < least["mean_thinking_tokens"] < most["mean_thinking_tokens"]:
        slope = metrics.scaling(*([point[name] for point in (least, most)] for name in _AXES))
        sentence += f": {signed(slope)} points per doubling between the two"
    yield f"{sentence}."
    if numbers["scaling"] is not None and len(points) > 2:
        yield f"Scaling, the mean slope over all pairs of budgets, is {signed(numbers['scaling'])} points per doubling."


def _held(model: str, point: Mapping[str, Any]) -> str:
    return (
        f"{point['budget']:,} {model} thinks {point['mean_thinking_tokens']:,.1f} tokens on average and gets "
        f"{percent(point['accuracy_pct'])} right"
    )


def _waits(numbers: Mapping[str, Any]) -> Iterator[str]:
    natural, waits = numbers["natural"], numbers["wait"]
    if natural is None or not waits or None in (natural["accuracy_pct"], waits[0]["accuracy_pct"]):
        return
    run = waits[0]
    times = "once" if run["num_ignore"] == 1 else f"{run['num_ignore']} times"
    longer, usual = run["mean_thinking_tokens"], natural["mean_thinking_tokens"]
    yield (
        f"Told {times} to go on where it would have stopped, it thinks {longer:.0f} tokens instead of {usual:.0f} and "
        f"answers {percent(run['accuracy_pct'])}."
    )


def _control(methods: Mapping[str, Any]) -> Iterator[str]:
    forced = methods.get(BUDGET_FORCING)
    words = [method["control_pct"] for name, method in methods.items() if name.endswith("_conditional")]
    words = [control for control in words if control is not None]
    if forced is None or forced["control_pct"] is None or not words:
        return
    share = percent(words[0]) if len(words) == 1 else f"{percent(min(words))} to {percent(max(words))}"
    yield (
        f"By force {percent(forced['control_pct'])} of its responses keep to their budget; "
        f"asked for it in words, {share} do."
    )


def _between(interval: Sequence[float]) -> str:
    return f"{interval[0]:.0f} to {interval[1]:.0f}%"
