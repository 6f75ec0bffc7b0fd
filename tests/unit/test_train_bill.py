"""What a training is billed for, attempt by attempt."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import train_bill
from jobs.train_bill import Bill, Span, seconds, worker_seconds


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(train_bill, "time", SimpleNamespace(time=lambda: now.seconds))
    return now


def test_every_attempt_counts_with_the_workers_it_had(clock, tmp_path):
    bill = Bill(str(tmp_path / "scratch"), workers=16, usd_per_hour=3.6)
    with bill:
        clock.seconds += 10  # 16 workers load
        bill.tick(16)
        clock.seconds += 10
        bill.tick(8)  # half of them could be had again
        clock.seconds += 30
        bill.tick(8)
    killed = Bill(str(tmp_path / "scratch"), workers=4, usd_per_hour=3.6)
    clock.seconds += 10_000  # nobody pays for the time in between
    killed.__enter__()
    clock.seconds += 7
    killed.tick(4)
    clock.seconds += 2  # less than an interval before the kill
    again = Bill(str(tmp_path / "scratch"), workers=1, usd_per_hour=3.6)
    assert seconds(again.spans) == 20 + 30 + 7
    assert worker_seconds(again.spans) == 16 * 20 + 8 * 30 + 4 * 7
    assert again.usd() == pytest.approx((16 * 20 + 8 * 30 + 4 * 7) * 0.001)
    assert again.usd(until=1015.0) == pytest.approx(16 * 15 * 0.001)


def test_a_bill_that_cannot_be_written_is_told_once_and_goes_on(clock, tmp_path, capsys):
    (tmp_path / "scratch").write_text("a file where the folder should be")
    with Bill(str(tmp_path / "scratch"), workers=2, usd_per_hour=1.0) as bill:
        clock.seconds += 60
        bill.tick(2)
    assert worker_seconds(bill.spans) == 120
    assert capsys.readouterr().err.count("cannot be written") == 1


SPANS = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.integers(1, 64)).map(lambda t: Span(t[0], t[0] + t[1], t[2]))
)


@given(SPANS, st.floats(0, 2e6), st.floats(0, 2e6))
def test_what_is_billed_grows_with_time_up_to_the_whole(spans, one, other):
    early, late = sorted((one, other))
    assert worker_seconds(spans, early) <= worker_seconds(spans, late) <= worker_seconds(spans)
    assert seconds(spans, late) <= worker_seconds(spans, late) * (1 + 1e-9)
