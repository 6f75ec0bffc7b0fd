"""The progress line and bar, with a clock that the test sets."""

import io
import sys
from types import SimpleNamespace

import pytest

from jobs import progress


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_what_was_restored_and_the_start_say_nothing_about_the_time_left(clock, capsys):
    with progress.Progress("train", total=315, unit="steps") as bar:
        clock.seconds = 60.0  # the workers started and loaded their checkpoint
        bar.resume(252)
        clock.seconds = 70.0
        bar.update(252)
        clock.seconds = 80.0
        bar.update(253, "loss 1.0")
        clock.seconds = 140.0
        bar.update(256)
    nothing, first, second = capsys.readouterr().err.splitlines()
    assert nothing == "train: 252/315 steps, 70 s"
    assert first == "train: 253/315 steps, 80 s, loss 1.0"
    assert second == "train: 256/315 steps, 0.05/s, 140 s, 1180 s left, loss 1.0"


def test_the_rate_is_measured_anew_for_workers_that_begin_anew(clock, capsys):
    with progress.Progress("train", total=100, unit="steps") as bar:
        for seconds, done in ((100.0, 10), (110.0, 20)):
            clock.seconds = seconds
            bar.update(done)
        bar.resume(15)
        for seconds, done in ((300.0, 16), (310.0, 18)):
            clock.seconds = seconds
            bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "train: 20/100 steps, 1/s, 110 s, 80 s left"
    assert lines[2] == "train: 16/100 steps, 300 s"
    assert lines[3] == "train: 18/100 steps, 0.2/s, 310 s, 410 s left"


def test_what_comes_at_once_has_no_rate(clock, capsys):
    with progress.Progress("collect", total=1000, unit="questions") as bar:
        clock.seconds = 20.0
        bar.advance(1000)
    assert capsys.readouterr().err == "collect: 1000/1000 questions, 20 s\n"  # not once more at the end


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_of_a_terminal_is_measured_from_the_first_unit_too(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.seconds)
    with progress.Progress("evaluate", total=100, unit="answers") as bar:
        clock.seconds = 3600.0  # the models started
        bar.advance()
        clock.seconds = 3610.0
        bar.advance(20)
    assert "21/100 [00:10<00:3" in terminal.getvalue().split("\r")[-1]


def test_where_nothing_is_counted_the_time_is_shown(clock, capsys):
    with progress.Progress("evaluate: starting the models") as bar:
        clock.seconds = 20.0
        bar.update(0, "waiting for tuned")
        assert capsys.readouterr().err == "evaluate: starting the models: 20 s, waiting for tuned\n"
