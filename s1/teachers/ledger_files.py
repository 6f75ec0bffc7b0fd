"""The files of a ledger: each is there as a whole or not at all, and any number of writers make their own.

Locally a file is written aside, fsynced and renamed, and the folder is fsynced; an object appears when it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s1.artifacts import join
from s1.errors import UserError

SUFFIX = ".parquet"
# What a teacher made of a question.
OUTCOME = pa.schema(
    [
        ("teacher", pa.string()),
        ("model_version", pa.string()),
        ("trace_kind", pa.string()),
        ("status", pa.string()),
        ("thinking", pa.string()),
        ("attempt", pa.string()),
        ("finish_reason", pa.string()),
        ("detail", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
    ]
)
RECORDS = pa.schema(
    [("key", pa.string()), ("recorded_at", pa.timestamp("us", "UTC")), ("question", pa.string()), *OUTCOME]
)
_GATHER_S = 0.05  # records that come up within this time share a file
_SMALL_FILES = 64  # so many of its own a writer merges
SMALL_BYTES = 32 * 2**20  # files below this are worth merging when a job ends
_GROUP_ROWS = 64
# Writing to these is atomic: an object appears when it is closed. Elsewhere a file is written aside and moved.
_ATOMIC = ("s3", "gcs", "abfs")


def files(fs: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """The files of records in a folder; what is being written has a name that starts with an underscore."""
    infos = cast(list[pafs.FileInfo], fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)))
    return sorted(
        (info for info in infos if info.base_name.endswith(SUFFIX) and not info.base_name.startswith("_")),
        key=lambda info: info.path,
    )


def column(fs: pafs.FileSystem, path: str, name: str) -> list[Any]:
    """One column of a file of records. UserError when the file is none, OSError when it cannot be read."""
    with named(fs, path), fs.open_input_file(path) as source:
        return pq.read_table(source, columns=[name]).column(name).to_pylist()


@contextlib.contextmanager
def named(fs: pafs.FileSystem, path: str) -> Generator[None]:
    """UserError with the name of a file whose content is not that of records; OSError where it cannot be read."""
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise _no_records(path, error) from error
    except FileNotFoundError:
        raise
    except OSError:
        # A damaged page is an OSError to zstd, as is a broken connection: only who has the whole file can tell.
        with fs.open_input_file(path) as source:
            content = source.read_buffer()
        try:
            pq.read_table(pa.BufferReader(content)).cast(RECORDS)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise _no_records(path, error) from error
        raise  # it is good: what failed was the reading


def _no_records(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path}: not a file of paid records ({' '.join(str(error).split())}); restore it, or delete it to ask its "
        "questions again"
    )


def merge(fs: pafs.FileSystem, folder: str, paths: list[str], seen: set[str]) -> None:
    """Put the records of `paths` whose keys are not in `seen` into one file, then remove these.

    What somebody else has merged meanwhile is left out.
    """
    merged: list[str] = []
    taken: set[str] = set()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, RECORDS, compression="zstd") as writer:
        for path in paths:
            try:
                with named(fs, path), fs.open_input_file(path) as source:
                    table = pq.read_table(source, columns=RECORDS.names).cast(RECORDS)
            except FileNotFoundError:
                continue
            merged.append(path)
            keys = table.column("key").to_pylist()
            fresh = [key not in seen and key not in taken for key in keys]
            writer.write_table(table.filter(pa.array(fresh, pa.bool_())), row_group_size=_GROUP_ROWS)
            taken.update(keys)
    if len(merged) < 2:
        return
    put(fs, folder, f"merged-{uuid.uuid4().hex[:12]}{SUFFIX}", sink.getvalue())
    seen |= taken
    for path in merged:
        try:
            fs.delete_file(path)
        except FileNotFoundError:
            continue


def put(fs: pafs.FileSystem, folder: str, name: str, content: pa.Buffer) -> str:
    """Write a file that is there as a whole or not at all, and for good; returns its path."""
    path = join(folder, name)
    if fs.type_name == "local":
        _put_locally(Path(folder), name, content)
    elif fs.type_name in _ATOMIC:
        with fs.open_output_stream(path) as sink:
            sink.write(content)
    else:
        fs.create_dir(folder, recursive=True)
        aside = join(folder, f"_{name}")
        with fs.open_output_stream(aside) as sink:
            sink.write(content)
        fs.move(aside, path)
    return path


def _put_locally(folder: Path, name: str, content: pa.Buffer) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)
    aside = folder / f"_{name}"
    try:
        with aside.open("wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        aside.rename(folder / name)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer:
    """The files of one writer. Records that arrive while a write is under way go together into the next one."""

    def __init__(self, fs: pafs.FileSystem, path: str) -> None:
        self.fs, self.path = fs, path
        self.name = uuid.uuid4().hex[:12]
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._own: list[str] = []
        self._num_files = 0

    async def write(self, record: dict[str, Any]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER_S)
            group, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write_file, [record for record, _ in group])
            except Exception as error:  # whatever it is, those who wait have to learn of it
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
                continue
            for _, done in group:
                if not done.done():
                    done.set_result(None)
            if len(self._own) >= _SMALL_FILES:
                small, self._own = self._own, []
                # A merge that fails loses nothing; a disk that is full says so at the next record, a damaged file at
                # the end of the job.
                with contextlib.suppress(OSError, UserError):
                    await asyncio.to_thread(merge, self.fs, self.path, small, set())

    def _write_file(self, records: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(records, schema=RECORDS)
        pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd")
        self._num_files += 1
        name = f"part-{self.name}-{self._num_files:06d}{SUFFIX}"
        self._own.append(put(self.fs, self.path, name, sink.getvalue()))
