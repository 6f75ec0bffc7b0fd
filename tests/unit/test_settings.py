from s1.evaluation.settings import Setting, settings


def test_every_setting_once_and_the_longest_first():
    names = [setting.name for setting in settings([4, 16, 8, 8], [1, 2], guard_tokens=128)]
    assert names == ["wait_2", "wait_1", "natural", "max_16", "max_8", "max_4"]


def test_what_ends_by_itself_is_guarded():
    by_name = {setting.name: setting for setting in settings([4], [1], guard_tokens=128)}
    assert by_name["natural"].budget_forcing("Wait", None) == {"num_ignore": 0, "max_tokens": 128}
    assert by_name["wait_1"].budget_forcing("Wait", None) == {
        "num_ignore": 1,
        "max_tokens": 128,
        "ignore_str": "Wait",
    }
    assert by_name["max_4"].budget_forcing("Wait", "Answer:") == {
        "num_ignore": 0,
        "max_tokens": 4,
        "final_answer_prefix": "Answer:",
    }


def test_without_a_guard_only_the_context_ends_the_thinking():
    assert Setting("natural", None).budget_forcing("Wait", None) == {"num_ignore": 0}
