"""What a training is billed for, attempt by attempt."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import journal as journal_module
from actors.journal import Journal
from jobs import train_bill
from jobs.train_bill import Bill, Span, seconds, worker_seconds


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    for module in (train_bill, journal_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now.seconds))
    return now


def test_every_attempt_counts_with_the_workers_it_had(clock, tmp_path):
    journal = Journal()
    with Bill(str(tmp_path / "scratch"), usd_per_hour=3.6) as bill:
        clock.seconds += 600  # until there are machines
        bill.tick(journal.held())
        journal.hold(16)
        clock.seconds += 20  # 16 workers load
        bill.tick(journal.held())
        journal.release()
        clock.seconds += 3000  # until others can be had
        bill.tick(journal.held())
        journal.hold(8)
        clock.seconds += 30
        bill.tick(journal.held())
    killed = Bill(str(tmp_path / "scratch"), usd_per_hour=1.8)  # goes on as spot instances
    clock.seconds += 10_000  # nobody pays for the time in between
    killed.__enter__()
    journal = Journal()
    journal.hold(4)
    clock.seconds += 7
    killed.tick(journal.held())
    clock.seconds += 2  # less than an interval before the kill
    again = Bill(str(tmp_path / "scratch"), usd_per_hour=3.6)
    assert seconds(again.spans) == 20 + 30 + 7
    assert worker_seconds(again.spans) == 16 * 20 + 8 * 30 + 4 * 7
    assert again.usd() == pytest.approx((16 * 20 + 8 * 30) * 0.001 + 4 * 7 * 0.0005)
    assert again.usd(until=1615.0) == pytest.approx(16 * 15 * 0.001)


def test_a_bill_that_cannot_be_written_is_told_once_and_goes_on(clock, tmp_path, capsys):
    (tmp_path / "scratch").write_text("a file where the folder should be")
    with Bill(str(tmp_path / "scratch"), usd_per_hour=1.0) as bill:
        clock.seconds += 60
        bill.tick([(1000.0, None, 2)])
    assert worker_seconds(bill.spans) == 120
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_group_ends_once_and_at_the_latest_when_the_next_one_begins(clock):
    journal = Journal()
    journal.release()
    assert journal.held() == ()
    journal.hold(2)
    clock.seconds += 5
    journal.release()  # an error in one of them
    clock.seconds += 5
    journal.release()  # and the end of the first one
    journal.hold(4)
    clock.seconds += 5
    journal.hold(8)
    assert journal.held() == journal.since(0).held == ((1000, 1005, 2), (1010, 1015, 4), (1015, None, 8))


SPANS = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.integers(1, 64)).map(
        lambda t: Span(t[0], t[0] + t[1], t[2], 1.0)
    )
)


@given(SPANS, st.floats(0, 2e6), st.floats(0, 2e6))
def test_what_is_billed_grows_with_time_up_to_the_whole(spans, one, other):
    early, late = sorted((one, other))
    assert worker_seconds(spans, early) <= worker_seconds(spans, late) <= worker_seconds(spans)
    assert seconds(spans, late) <= worker_seconds(spans, late) * (1 + 1e-9)
