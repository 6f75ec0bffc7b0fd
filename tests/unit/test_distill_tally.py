"""What became of the requests, and in which order their rows leave."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.teacher_pool import OUTCOMES
from jobs.distill import DistillOptions, check_losses, check_stopped
from jobs.spool import Spool
from jobs.tally import Tally
from s1.errors import UserError
from s1.teachers.ledger import Ledger


def row(number: int, status: str, detail: str = "") -> dict:
    return {"question_id": str(number), "status": status, "detail": detail, "cost_usd": 0.5}


def tally_of(*rows: dict, total: int | None = None) -> Tally:
    tally = Tally([str(number) for number in range(total or len(rows))], Spool(OUTCOMES, 10))
    for each in rows:
        tally.add(each)
    return tally


def test_losses_beyond_what_is_allowed_are_named_with_their_most_frequent_reason():
    tally = tally_of(
        row(0, "ok"), row(1, "transient", "HTTP 503: a"), row(2, "rate_limited", "HTTP 503: a"), row(3, "declined", "b")
    )
    assert tally.note() == "1 ok, 3 dropped"
    assert tally.cost_usd == 2.0
    assert tally.dropped() == {"declined": 1, "rate_limited": 1, "transient": 1}
    assert tally.reasons()["declined"] == {"b": 1}
    with pytest.raises(UserError, match=r"2 of 4 requests failed .*HTTP 503: a.* --max-lost 0.5"):
        check_losses(DistillOptions(max_lost=0.4), tally)
    check_losses(DistillOptions(max_lost=0.5), tally)
    with pytest.raises(UserError, match=r"1 of 3 questions came back without an outcome.*run the same command again"):
        check_losses(DistillOptions(max_lost=1.0), tally_of(row(0, "ok"), row(1, "ok"), total=3))
    with pytest.raises(UserError, match=r"worked gave no trace for any of 1 questions \(declined: b\)"):
        check_losses(DistillOptions(), tally_of(row(0, "declined", "b")))


def test_reasons_that_differ_in_ids_and_numbers_are_one_reason():
    said = [f"HTTP 400: {n + 5000} tokens are too many (request req_{n:04x})" for n in range(30)]
    others = ["HTTP 503: not now", "HTTP 500: not now"]
    tally = tally_of(*(row(at, "declined", detail) for at, detail in enumerate([*said, *others])))
    assert tally.reasons() == {"declined": {said[0]: 30, **dict.fromkeys(others, 1)}}
    lost = tally_of(*(row(at, "transient", f"HTTP 503: busy (request {at})") for at in range(3)))
    assert lost.main_loss() == "HTTP 503: busy (request 0)"


def test_a_question_counts_once():
    tally = tally_of(row(0, "ok"), row(1, "ok"))
    tally.add(row(0, "blocked", "again"))
    assert (tally.num_done, tally.cost_usd, tally.dropped()) == (2, 1.0, {})


@given(order=st.permutations(range(40)), bucket_rows=st.integers(1, 50), kept=st.integers(0, 40))
def test_rows_that_come_in_any_order_leave_in_order(order, bucket_rows, kept):
    schema = pa.schema([("text", pa.string())])
    with Spool(schema, bucket_rows) as spool:
        for position in order[:kept]:
            spool.add(position, {"text": f"row {position}", "unknown": 1})
        rows = [each for table in spool.tables() for each in table.to_pylist()]
    assert rows == [{"position": position, "text": f"row {position}"} for position in sorted(order[:kept])]


def test_at_the_cap_the_line_says_how_to_go_on(tmp_path):
    tally = tally_of(row(0, "ok"), row(1, "unasked", "cap"), row(2, "ok"))
    ledger = Ledger(str(tmp_path))
    with pytest.raises(UserError, match=r"cap; 1 of 3 questions are left.*run the same command.*--max-lost 0.334"):
        check_stopped(DistillOptions(), tally, "cap", ledger)
    check_stopped(DistillOptions(max_lost=0.334), tally, "cap", ledger)
