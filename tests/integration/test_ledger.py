import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from moto.server import ThreadedMotoServer

from s1.errors import UserError
from s1.teachers import ledger as ledgers
from s1.teachers import ledger_files
from s1.teachers.ledger import Ledger, request_key
from s1.teachers.protocol import Status, TraceOutcome, classified

PAID = TraceOutcome(Status.OK, "thinking\nwith lines \u2028 and more", "the attempt", "stop", "", 3, 5, 0.25)


def record(ledger: Ledger, *keys: str) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(ledger.record(key, f"what is {key}?", PAID) for key in keys))

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


def test_what_was_being_written_at_a_crash_is_passed_over_and_nothing_before_it_is_lost(tmp_path):
    record(Ledger(str(tmp_path)), "a", "b")
    (path,) = tmp_path.iterdir()
    (tmp_path / f"_{path.name}").write_bytes(path.read_bytes()[:100])
    reader = Ledger(str(tmp_path))
    reader.refresh()
    assert len(reader) == 2


@pytest.mark.parametrize("content", [b"", b"{broken", b"PAR1 and no more"])
def test_a_broken_file_is_named(tmp_path, content):
    record(Ledger(str(tmp_path)), "a")
    (tmp_path / "part-x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"part-x.parquet: not a file of paid records .* restore it, or delete it"):
        Ledger(str(tmp_path)).refresh()


@pytest.mark.parametrize("column", ["key", "thinking"])
def test_a_file_with_a_damaged_page_is_named_wherever_it_is_read(tmp_path, column):
    ledger = Ledger(str(tmp_path))
    record(ledger, "a")
    (path,) = tmp_path.iterdir()
    ledger.refresh()
    chunk = next(
        found
        for found in map(pq.ParquetFile(path).metadata.row_group(0).column, range(len(ledger_files.RECORDS)))
        if found.path_in_schema == column
    )
    content, start = bytearray(path.read_bytes()), chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(content))
    record(Ledger(str(tmp_path)), "b")
    readings = [lambda: ledger.get("a"), ledger.compact] if column == "thinking" else [Ledger(str(tmp_path)).refresh]
    for reading in readings:
        with pytest.raises(UserError, match=rf"{path.name}: not a file of paid records .* restore it, or delete it"):
            reading()


def test_a_page_that_zstd_cannot_unpack_is_named(tmp_path):
    ledger = Ledger(str(tmp_path))
    asyncio.run(ledger.record("a", "?", TraceOutcome(Status.OK, "".join(map(str, range(50_000))), "y")))
    (path,) = tmp_path.iterdir()
    ledger.refresh()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2  # most of the file is the thinking
    content[middle : middle + 100] = b"\x00" * 100
    path.write_bytes(bytes(content))
    record(Ledger(str(tmp_path)), "b")
    for reading in (lambda: ledger.get("a"), ledger.compact):
        with pytest.raises(UserError, match=rf"{path.name}: not a file of paid records"):
            reading()


def test_keys_of_a_merge_that_wrote_nothing_are_written_by_the_next_one(tmp_path):
    ledger, seen = Ledger(str(tmp_path)), set[str]()
    record(ledger, "a")
    (path,) = map(str, tmp_path.iterdir())
    ledger_files.merge(ledger.fs, ledger.path, [path, f"{path}.gone"], seen)
    assert seen == set()
    record(ledger, "a", "b")
    ledger_files.merge(ledger.fs, ledger.path, sorted(map(str, tmp_path.iterdir())), seen)
    assert seen == {"a", "b"}
    assert sorted(pq.read_table(tmp_path)["key"].to_pylist()) == ["a", "b"]


def test_another_table_is_not_taken_for_records(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other.parquet: not a file of paid records"):
        Ledger(str(tmp_path)).refresh()
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    record(Ledger(str(tmp_path)), "b")
    with pytest.raises(UserError, match=r"other.parquet: not a file of paid records"):
        Ledger(str(tmp_path)).compact()


def test_many_records_end_in_few_files_each_once_while_others_read(tmp_path):
    writer, reader = Ledger(str(tmp_path)), Ledger(str(tmp_path))
    for number in range(5):
        record(writer, f"a{number}", f"b{number}", "same")
    reader.refresh()
    assert len(list(tmp_path.iterdir())) == 5
    Ledger(str(tmp_path)).compact()
    assert len(list(tmp_path.iterdir())) == 1
    # The reader still knows the old places.
    assert dict(reader.find(["a0", "b4", "same", "nobody"])) == dict.fromkeys(["a0", "b4", "same"], PAID)
    assert len(reader) == 11
    assert sorted(pq.read_table(tmp_path)["key"].to_pylist()) == sorted(
        ["same", *(f"{name}{number}" for name in "ab" for number in range(5))]
    )


def test_a_kill_between_a_merge_and_its_end_leaves_every_record_readable_once(tmp_path):
    record(Ledger(str(tmp_path)), "a", "b")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    record(Ledger(str(tmp_path)), "c")
    Ledger(str(tmp_path)).compact()
    path.write_bytes(content)  # was merged, and not yet removed
    ledger = Ledger(str(tmp_path))
    ledger.refresh()
    assert dict(ledger.find("abc")) == dict.fromkeys("abc", PAID)
    ledger.compact()
    assert sorted(pq.read_table(tmp_path)["key"].to_pylist()) == ["a", "b", "c"]


def test_a_writer_merges_its_small_files_while_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_files, "_SMALL_FILES", 4)
    monkeypatch.setattr(ledger_files, "_GATHER_S", 0.0)
    ledger = Ledger(str(tmp_path))

    async def one_after_the_other() -> None:
        for number in range(30):
            await ledger.record(str(number), "?", PAID)

    asyncio.run(one_after_the_other())
    assert len(list(tmp_path.iterdir())) < 15
    ledger.refresh()
    assert {key for key, _ in ledger.find(map(str, range(30)))} == set(map(str, range(30)))


def test_a_folder_that_cannot_be_written_fails_every_waiting_record_and_loses_none(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError):
        record(Ledger(str(blocked / "ledger")), "a")
    with pytest.raises(UserError, match=r"the ledger cannot be written .* choose another --ledger"):
        Ledger(str(blocked / "ledger")).check_writable()


class Flaky(pafs.FSSpecHandler):
    """A store that is out of reach for the next so many calls."""

    def __init__(self) -> None:
        super().__init__(LocalFileSystem())
        self.away = 0

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        self._reach()
        return super().get_file_info_selector(selector)

    def open_input_file(self, path: str) -> object:
        self._reach()
        return super().open_input_file(path)

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation")


def test_a_store_that_is_out_of_reach_for_a_moment_is_tried_again_and_else_no_reason_to_delete_anything(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ledgers, "_PAUSE_S", 0.0)
    record(Ledger(str(tmp_path)), "a")
    store, ledger = Flaky(), Ledger(str(tmp_path))
    ledger.fs = pafs.PyFileSystem(store)
    for away in (1, 3):
        store.away = away
        ledger.refresh()
        store.away = away
        assert ledger.get("a") == PAID
    record(Ledger(str(tmp_path)), "b")
    for reading in (ledger.refresh, lambda: ledger.get("a"), ledger.compact):
        store.away = 100
        with pytest.raises(UserError, match=r"out of reach \(AWS Error NETWORK.*; nothing of it is lost, run the same"):
            reading()
    store.away = 0
    ledger.refresh()
    assert dict(ledger.find("ab")) == dict.fromkeys("ab", PAID)


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "_PAUSE_S", 0.0)
    (tmp_path / "ledger").write_text("in the way")
    ledger = Ledger(str(tmp_path / "ledger"))
    for reading in (ledger.refresh, ledger.compact):
        with pytest.raises(UserError, match=r"/ledger: the ledger is out of reach"):
            reading()


FULL = """
import asyncio, resource, signal, sys
from s1.teachers.ledger import Ledger
from s1.teachers.protocol import Status, TraceOutcome

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # no file may be larger, as on a disk that is full

async def main():
    ledger = Ledger(sys.argv[1])
    await ledger.record("a", "?", TraceOutcome(Status.OK, "x", "y"))
    try:
        await ledger.record("b", "?", TraceOutcome(Status.OK, "".join(map(str, range(50_000))), "y"))
    except OSError as error:
        print(type(error).__name__)
    await ledger.record("c", "?", TraceOutcome(Status.OK, "x", "y"))

asyncio.run(main())
"""


def test_a_disk_that_is_full_loses_nothing_that_was_recorded(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "OSError\n"
    ledger = Ledger(str(tmp_path))
    ledger.refresh()
    assert {key for key, _ in ledger.find("abc")} == {"a", "c"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("_")]


def test_looking_whether_it_can_be_written_leaves_nothing(tmp_path):
    Ledger(str(tmp_path / "new" / "ledger")).check_writable()
    assert list((tmp_path / "new" / "ledger").iterdir()) == []


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
        await ledger.record(str(number), "?", TraceOutcome(Status.OK, "x" * 5000, "y"))
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


def test_any_parquet_reader_reads_it(tmp_path: Path):
    record(Ledger(str(tmp_path)), "a")
    record(Ledger(str(tmp_path)), "b")
    (tmp_path / "_part-being-written.parquet").write_bytes(b"half")
    rows = pq.read_table(tmp_path).sort_by("key").to_pylist()
    assert [(row["key"], row["question"], row["status"], row["attempt"]) for row in rows] == [
        (key, f"what is {key}?", "ok", "the attempt") for key in sorted("ab")
    ]


def test_text_that_is_no_unicode_can_be_recorded(tmp_path):
    outcome = classified("half a pair \ud83d", "7 \ud800", "stop")
    ledger = Ledger(str(tmp_path))
    asyncio.run(ledger.record(request_key("\udc00?", {}), "\udc00?", outcome))
    ledger.refresh()
    assert ledger.get(request_key("\udc00?", {})) == outcome
    assert outcome.thinking == "half a pair ?"


def test_on_another_file_system_files_are_moved_into_place(tmp_path):
    (tmp_path / "bucket").mkdir()
    writer, reader = Ledger("unused"), Ledger("unused")
    for ledger in (writer, reader):
        ledger.fs, ledger.path = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket"
    record(writer, "a", "b")
    record(writer, "c")
    reader.refresh()
    assert dict(reader.find("abc")) == dict.fromkeys("abc", PAID)
    writer.compact()
    assert [reader.get(key) for key in "abc"] == [PAID] * 3
    assert len(list((tmp_path / "bucket").iterdir())) == 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of a bucket of a local server that speaks S3."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.put(f"http://{host}:{port}/bucket").raise_for_status()
    yield f"s3://key:secret@bucket/runs/_ledger?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


def test_an_object_store_holds_it_as_well(bucket: str):
    writer, other, reader = Ledger(bucket), Ledger(bucket), Ledger(bucket)
    reader.refresh()
    assert len(reader) == 0
    writer.check_writable()
    record(writer, "a", "b")
    record(other, "c")
    reader.refresh()
    Ledger(bucket).compact()
    assert dict(reader.find("abc")) == dict.fromkeys("abc", PAID)  # from where they are now
    assert set(pq.read_table(reader.path, filesystem=reader.fs)["key"].to_pylist()) == set("abc")
    assert len(reader.fs.get_file_info(pafs.FileSelector(reader.path))) == 1


def test_a_record_that_is_moved_is_missing_at_no_moment(tmp_path):
    record(Ledger(str(tmp_path)), "a")
    record(Ledger(str(tmp_path)), "b")
    reader = Ledger(str(tmp_path))
    reader.refresh()
    Ledger(str(tmp_path)).compact()
    missing = 0
    with ThreadPoolExecutor(2) as pool:
        refreshing = [pool.submit(reader.refresh) for _ in range(50)]
        while not all(done.done() for done in refreshing):
            missing += "a" not in reader or reader.get("b") != PAID
    assert missing == 0
