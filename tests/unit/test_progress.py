"""The plain progress line, with a clock that the test sets."""

from types import SimpleNamespace

import pytest

from jobs import progress


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_what_was_restored_is_done_but_says_nothing_about_the_time_left(clock, capsys):
    with progress.Progress("train", total=315, unit="steps") as bar:
        clock.seconds = 60.0  # the workers started and loaded their checkpoint
        bar.resume(252)
        clock.seconds = 80.0
        bar.update(253, "loss 1.0")
        clock.seconds = 140.0
        bar.update(256)
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first == "train: 253/315 steps, 0.05/s, 80 s, 1240 s left, loss 1.0"
    assert second == "train: 256/315 steps, 0.05/s, 140 s, 1180 s left, loss 1.0"


def test_nothing_is_said_about_the_time_left_before_the_first_unit_of_this_attempt(clock, capsys):
    with progress.Progress("train", total=315, unit="steps") as bar:
        bar.resume(252)
        clock.seconds = 20.0
        bar.update(252)
        assert capsys.readouterr().err == "train: 252/315 steps, 0/s, 20 s\n"


def test_where_nothing_is_counted_the_time_is_shown(clock, capsys):
    with progress.Progress("evaluate: starting the models") as bar:
        clock.seconds = 20.0
        bar.update(0, "waiting for tuned")
        assert capsys.readouterr().err == "evaluate: starting the models: 20 s, waiting for tuned\n"
