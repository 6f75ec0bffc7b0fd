import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from s1.errors import UserError
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.protocol import Status, TraceOutcome

PAID = TraceOutcome(Status.OK, "thinking\nwith lines \u2028 and more", "the attempt", "stop", "", 3, 5, 0.25)


def record(ledger: Ledger, *keys: str) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(ledger.record(key, PAID) for key in keys))

    asyncio.run(all_at_once())


def test_what_was_recorded_is_read_by_everybody(tmp_path):
    first, second, reader = (Ledger(str(tmp_path / "ledger")) for _ in range(3))
    reader.refresh()
    assert len(reader) == 0
    record(first, "a", "b")
    record(second, "c")
    reader.refresh()
    assert [reader.get(key) for key in "abcd"] == [PAID, PAID, PAID, None]
    record(first, "d")
    assert "d" not in reader
    reader.refresh()
    assert reader.get("d") == PAID


def test_a_torn_last_record_is_passed_over_and_nothing_before_it_is_lost(tmp_path):
    ledger = Ledger(str(tmp_path))
    record(ledger, "a", "b")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for size in range(len(content.splitlines(keepends=True)[0]), len(content)):
        path.write_bytes(content[:size])
        reader = Ledger(str(tmp_path))
        reader.refresh()
        assert len(reader) == 1
        path.write_bytes(content)
        reader.refresh()
        assert len(reader) == 2


def test_a_broken_record_in_the_middle_is_named(tmp_path):
    record(Ledger(str(tmp_path)), "a")
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(UserError, match=rf"{path.name}: byte 0: not a record"):
        Ledger(str(tmp_path)).refresh()


def test_a_folder_that_cannot_be_written_fails_every_waiting_record_and_loses_none(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError):
        record(Ledger(str(blocked / "ledger")), "a")


def test_keys_come_from_the_content_of_the_request():
    request = {"teacher": "openai", "body": {"model": "r1", "temperature": 0.5}}
    same = {"body": {"temperature": 0.5, "model": "r1"}, "teacher": "openai"}
    assert request_key("2 + 2?", request) == request_key("2 + 2?", same)
    others = [("2 + 3?", request), ("2 + 2?", {**request, "body": {"model": "r2"}})]
    assert len({request_key("2 + 2?", request), *(request_key(*other) for other in others)}) == 3


WRITER = """
import asyncio, sys
from s1.teachers.ledger import Ledger
from s1.teachers.protocol import Status, TraceOutcome

async def main():
    ledger = Ledger(sys.argv[1])
    async def one(number):
        await ledger.record(str(number), TraceOutcome(Status.OK, "x" * 5000, "y"))
        print(number, flush=True)
    for start in range(0, 10**9, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))

asyncio.run(main())
"""


def test_after_sigkill_everything_that_was_reported_is_there(tmp_path):
    folder = tmp_path / "ledger"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline().strip() for _ in range(100)]
        os.kill(writer.pid, signal.SIGKILL)
        reported += [line.strip() for line in writer.stdout if line.endswith("\n")]
    ledger = Ledger(str(folder))
    ledger.refresh()
    assert len(reported) >= 100
    assert all(key in ledger for key in reported)
    assert ledger.get("0") == TraceOutcome(Status.OK, "x" * 5000, "y")


def test_records_are_plain_json_lines(tmp_path: Path):
    record(Ledger(str(tmp_path)), "a")
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["attempt"] == "the attempt"


def test_on_an_object_store_every_group_of_records_is_an_object(tmp_path):
    (tmp_path / "bucket").mkdir()
    writer, reader = Ledger("unused"), Ledger("unused")
    for ledger in (writer, reader):
        ledger.fs, ledger.path = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket"
    record(writer, "a", "b")
    record(writer, "c")
    reader.refresh()
    assert [reader.get(key) for key in "abc"] == [PAID] * 3
    assert len(list((tmp_path / "bucket").iterdir())) >= 2
