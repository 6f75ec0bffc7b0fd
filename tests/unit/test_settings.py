from s1.evaluation.settings import WHOLE_CONTEXT, Setting, conditional, direct, forced, rejection
from s1.evaluation.tasks import Sweep
from serve.budget import MAX_COUNT


def test_every_setting_once_and_the_longest_first():
    names = [setting.name for setting in forced([4, 16, 8, 8], [1, 2], guard_tokens=128)]
    assert names == ["wait_2", "wait_1", "natural", "max_16", "max_8", "max_4"]


def test_every_string_is_a_setting_of_its_own():
    found = forced([], [2], None, ["Wait", "Hmm, let me see."])
    assert [(setting.name, setting.ignore_str) for setting in found[:-1]] == [
        ("wait_2", "Wait"),
        ("hmm-let-me-see_2", "Hmm, let me see."),
    ]


def test_what_ends_by_itself_is_guarded():
    by_name = {setting.name: setting for setting in forced([4], [1], guard_tokens=128)}
    assert by_name["natural"].budget_forcing(None) == {"num_ignore": 0, "max_tokens": 128}
    assert by_name["wait_1"].budget_forcing(None) == {
        "num_ignore": 1,
        "max_tokens": 128,
        "ignore_str": "Wait",
    }
    assert by_name["max_4"].budget_forcing("Answer:") == {
        "num_ignore": 0,
        "max_tokens": 4,
        "final_answer_prefix": "Answer:",
    }


def test_without_a_guard_only_the_context_ends_the_thinking():
    assert Setting("natural", None).budget_forcing(None) == {"num_ignore": 0}
    # Thinking that is lengthened and never ends by itself is cut off where the context has room for an answer yet.
    for lengthened in (Setting("wait_2", None, num_ignore=2), Setting("class_long", None, min_thinking_tokens=9)):
        assert lengthened.budget_forcing(None)["max_tokens"] == WHOLE_CONTEXT == MAX_COUNT


def test_without_thinking_nothing_is_forced_and_the_answer_has_a_cap_of_its_own():
    question = {"question_id": "1", "question": "1 + 1?"}
    sweep = Sweep(("base",), (question,), (direct(128), direct(None)), max_answer_tokens=16, final_answer_prefix="So:")
    bounded, free = (task.request.body() for task in sweep.tasks())
    assert bounded == {
        "model": "base",
        "messages": [{"role": "user", "content": "1 + 1?"}],
        "temperature": 0.0,
        "max_tokens": 128,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert "max_tokens" not in free


def test_conditional_settings_ask_in_words():
    found = conditional(tokens=[64], steps=[2], tokens_per_step=10, classes=True, guard_tokens=128)
    assert {
        setting.name: (setting.method, setting.asked_max_tokens, setting.asked_min_tokens) for setting in found
    } == {
        "tokens_64": ("token_conditional", 64, None),
        "steps_2": ("step_conditional", 20, None),
        "class_short": ("class_conditional", None, None),
        "class_long": ("class_conditional", None, None),
    }
    assert found[0].prompt("What is 1 + 1?") == "What is 1 + 1?\n\nThink for up to 64 tokens."
    assert all(setting.budget_forcing(None) == {"num_ignore": 0, "max_tokens": 128} for setting in found)


def test_with_forcing_what_was_asked_for_is_enforced():
    found = conditional(tokens=[64], classes=True, class_tokens=30, with_forcing=True, guard_tokens=128)
    by_name = {setting.name: setting for setting in found}
    assert list(by_name) == [
        "tokens_64",
        "tokens_64_forced",
        "class_short",
        "class_short_forced",
        "class_long",
        "class_long_forced",
    ]
    assert by_name["tokens_64_forced"].budget_forcing(None)["max_tokens"] == 64
    assert by_name["tokens_64_forced"].method == "token_conditional_forced"
    assert by_name["class_long_forced"].budget_forcing(None) == {
        "num_ignore": 0,
        "max_tokens": 128,
        "min_tokens": 30,
        "ignore_str": "Wait",
    }


def test_classes_without_a_bound_cannot_be_forced():
    assert len(conditional(classes=True, with_forcing=True)) == 2


def test_rejection_carries_its_limit_as_the_cap():
    (setting,) = rejection([16], max_tries=4, temperature=1.0)
    assert (setting.name, setting.max_thinking_tokens, setting.asked_max_tokens) == ("reject_16", 16, 16)
