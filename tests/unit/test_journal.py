from pathlib import Path

import pyarrow.fs as pafs
import pytest

from s1 import journal
from s1.journal import Journal


def test_a_row_is_on_disk_as_soon_as_it_is_added(tmp_path: Path):
    with Journal(str(tmp_path / "scratch")) as first:
        first.add({"key": 1})
        assert Journal(str(tmp_path / "scratch")).rows == [{"key": 1}]


def test_later_writers_go_on_where_earlier_ones_stopped(tmp_path: Path):
    for key in (1, 2):
        with Journal(str(tmp_path)) as writer:
            writer.add({"key": key, "text": "line\nbreak é \u2028"})
    assert sorted(row["key"] for row in Journal(str(tmp_path)).rows) == [1, 2]
    assert Journal(str(tmp_path)).rows[0]["text"] == "line\nbreak é \u2028"


def test_the_half_written_line_of_a_killed_writer_is_not_counted(tmp_path: Path):
    with Journal(str(tmp_path)) as writer:
        writer.add({"key": 1})
        writer.add({"key": 2})
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-5])
    with Journal(str(tmp_path)) as again:
        assert [row["key"] for row in again.rows] == [1]
        again.add({"key": 2})
    assert sorted(row["key"] for row in Journal(str(tmp_path)).rows) == [1, 2]


def test_where_files_cannot_grow_rows_are_written_in_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    # A file system that pyarrow does not call local behaves like an object store.
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr("s1.artifacts.resolve", lambda uri: (remote, "scratch"))
    with Journal("s3://bucket/scratch") as writer:
        for key in range(journal.BATCH_ROWS + 2):
            writer.add({"key": key})
        assert len(Journal("s3://bucket/scratch").rows) == journal.BATCH_ROWS
    assert [row["key"] for row in Journal("s3://bucket/scratch").rows] == list(range(journal.BATCH_ROWS + 2))
