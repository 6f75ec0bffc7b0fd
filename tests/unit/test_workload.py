"""What a stage generates is counted before it is asked."""

import pytest

from jobs import evaluate
from jobs.evaluation_options import EvaluateOptions
from s1.artifacts import Manifest
from s1.evaluation.settings import BestOf, Setting, Tree, Vote, conditional, direct, forced, rejection
from s1.evaluation.tasks import FORCED_END_TOKENS
from s1.workload import ANSWER_TOKENS, NATURAL_TOKENS, WAIT_TOKENS, Workload, of_attempts, of_setting

ANSWER, CONTEXT = 4096, 32768
FORCED = FORCED_END_TOKENS + ANSWER


def named(settings: tuple[Setting, ...]) -> dict[str, Setting]:
    return {setting.name: setting for setting in settings}


@pytest.mark.parametrize(
    ("setting", "expected", "most"),
    [
        (Setting("max_500", 500), 500 + ANSWER_TOKENS, 500 + FORCED),
        (Setting("max_16000", 16000), NATURAL_TOKENS + ANSWER_TOKENS, 16000 + FORCED),
        (Setting("natural", None), NATURAL_TOKENS + ANSWER_TOKENS, CONTEXT),
        (named(forced([], [6], None))["wait_6"], NATURAL_TOKENS + 6 * WAIT_TOKENS + ANSWER_TOKENS, CONTEXT),
        (named(forced([], [6], 2000))["wait_6"], 2000 + ANSWER_TOKENS, 2000 + FORCED),
        (
            named(conditional(classes=True, class_tokens=7000, with_forcing=True))["class_long_forced"],
            7000 + ANSWER_TOKENS,
            CONTEXT,
        ),
        (direct(None), ANSWER_TOKENS, CONTEXT),
        (direct(128), 128, 128),
    ],
)
def test_one_completion_has_its_cap_or_the_length_of_the_papers(setting: Setting, expected: int, most: int):
    assert of_setting(setting, ANSWER, CONTEXT) == Workload(1, expected, 1, most)


def test_methods_that_ask_several_times_pay_for_every_try():
    for limit, tries in ((4000, 32), (8000, 1)):
        found = of_setting(rejection([limit], 32, 1.0)[0], ANSWER, CONTEXT)
        each = min(limit, NATURAL_TOKENS) + ANSWER_TOKENS
        assert found == Workload(tries, tries * each, 32, 32 * (limit + FORCED))
    for plan in (Vote(4), BestOf(4, "module:scorer")):
        asked = of_setting(Setting("four", 2000, plan=plan), ANSWER, CONTEXT)
        assert asked == Workload(4, 4 * (2000 + ANSWER_TOKENS), 4, 4 * (2000 + FORCED))
    grown = of_setting(Setting("tree", None, plan=Tree(8, 1000, 16, "module:reward")), ANSWER, CONTEXT)
    assert grown == Workload(8 * 7, 8 * (6000 + ANSWER_TOKENS), 8 * 17, 8 * (16000 + FORCED))


def test_a_context_bounds_everything_and_without_one_the_most_is_unknown():
    assert of_setting(Setting("natural", None), ANSWER, 1024) == Workload(1, 1024, 1, 1024)
    assert of_setting(Setting("natural", None), ANSWER, None).most_tokens is None
    together = of_setting(Setting("natural", None), ANSWER, None) + of_attempts(3, 100)
    assert together == Workload(4, NATURAL_TOKENS + ANSWER_TOKENS + 300, 4, None)
    assert str(together) == "4 completions with 6,240 tokens expected, at most 4"
    assert str(of_attempts(2000, 1024)) == (
        "2,000 completions with 1.3 million tokens expected, at most 2,000 with 2.0 million"
    )


def options(**values: object) -> EvaluateOptions:
    return EvaluateOptions.model_validate({"budgets": [64], "max_answer_tokens": 16, **values})


def manifest(num_test: int) -> Manifest:
    return Manifest("collect", "f" * 16, {}, {}, "0", 9, 9, facts={"num_test": num_test})


@pytest.mark.parametrize(
    ("values", "test_questions", "number"),
    [
        ({"benchmarks": ["aime24", "math500", "gpqa_diamond=my/copy.csv"]}, None, 728),
        ({"benchmarks": ["aime24", "quiz.jsonl"]}, None, None),
        ({"benchmarks": ["aime24", "quiz.jsonl"], "num_questions": 50}, None, 50),
        ({"num_questions": 50}, 20, 20),
        ({}, 20, 20),
        ({}, None, None),
    ],
)
def test_the_number_of_questions_is_what_is_known_of_them(
    values: dict[str, object], test_questions: int | None, number: int | None
):
    manifests = {"questions": None if test_questions is None else manifest(test_questions)}
    assert evaluate.num_questions(options(**values), manifests) == number
    lines = evaluate.describe(options(**values), manifests)
    if number is None:
        assert lines[1] == "generates: unknown before the questions are there, unless num_questions is given"
    else:
        # Two models with the natural end, a Wait and a budget, and the base model directly.
        assert lines[1].startswith(f"generates for {number} questions: {7 * number:,} completions with ")
        assert lines[2].startswith("expected as in the paper: 5,300 tokens of a thinking that ends by itself")
