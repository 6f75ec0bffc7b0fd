from actors.journal import Journal


def test_who_asks_gets_what_is_new_and_everything_after_a_restart():
    journal = Journal()
    records = [{"step": step} for step in range(1, 6)]
    for record in records:
        assert journal.add(record) is False
    assert journal.since(3) == (5, records[3:])
    journal.restart(records[:2])
    assert journal.since(5) == (2, records[:2])
    journal.ask_to_stop()
    assert journal.add(records[2]) is True
    assert journal.result() == (records[:3], None)


def test_every_group_of_workers_says_where_it_begins():
    journal = Journal()
    assert journal.starts() == []
    for steps in (0, 6, 6):
        journal.restart([{"step": step + 1} for step in range(steps)])
    assert journal.starts() == [0, 6, 6]
