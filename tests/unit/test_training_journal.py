from actors.journal import Journal, News


def test_who_asks_gets_what_is_new_and_everything_after_a_restart():
    journal = Journal()
    records = [{"step": step} for step in range(1, 6)]
    for record in records:
        assert journal.add(record) is False
    assert journal.since(3) == News(5, records[3:], restored=0, group=0, workers=0)
    journal.restart(records[:2], workers=4)
    assert journal.since(5) == News(2, records[:2], restored=2, group=1, workers=4)
    journal.ask_to_stop()
    assert journal.add(records[2]) is True
    assert journal.since(2) == News(3, records[2:3], restored=2, group=1, workers=4)
    assert journal.result() == (records[:3], None)


def test_every_group_of_workers_says_where_it_begins():
    journal = Journal()
    assert journal.starts() == []
    for steps in (0, 6, 6):
        journal.restart([{"step": step + 1} for step in range(steps)], 2)
    assert journal.starts() == [0, 6, 6]


def test_the_first_reason_to_stop_is_the_one_that_is_told():
    journal = Journal()
    assert not journal.stopped()
    journal.stop("the disk is full")
    journal.stop("another worker noticed it too")
    assert journal.stopped() and journal.result() == ([], "the disk is full")
