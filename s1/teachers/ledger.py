"""A durable record of every finished request, written before its result is used.

A folder of Parquet files, local or on any `pyarrow.fs` URI; whatever reads Parquet reads it. Any number of workers
write at once: each puts the records that came up together into a file of its own, which is there as a whole or not at
all (locally: written aside, fsync, renamed, fsync of the folder), and merges its small files now and then. Keys come
from the content of a request (question, model, parameters, prompt version), never from row positions: adding rows,
reordering and other numbers of workers buy nothing twice. What was paid for in vain (a timeout, an answer that was
broken off) is recorded too, beside the key of its request: it is asked again, and counts as spent. After a kill between
a merge and the removal of what was merged a record lies in two files; they are the same, and the first one counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s1 import hashing
from s1.artifacts import join, resolve
from s1.errors import UserError
from s1.teachers.protocol import Status, TraceOutcome, storable

SUFFIX = ".parquet"
RECORDS = pa.schema(
    [
        ("key", pa.string()),
        ("recorded_at", pa.timestamp("us", "UTC")),
        ("question", pa.string()),
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
_OUTCOME = [field.name for field in fields(TraceOutcome) if field.name in RECORDS.names]
_IN_VAIN = "+"  # between the key of a request and what tells apart those of its answers that cannot be used
_GATHER_S = 0.05  # records that come up within this time share a file
_SMALL_FILES = 64  # so many of its own a writer merges
_SMALL_BYTES = 32 * 2**20  # files below this are worth merging when a job ends
_GROUP_ROWS = 64
# Writing to these is atomic: an object appears when it is closed. Elsewhere a file is written aside and moved.
_ATOMIC = ("s3", "gcs", "abfs")


def request_key(question: str, request: Mapping[str, Any]) -> str:
    """The key of what is asked: the question's exact text and everything else that shapes the answer."""
    text = json.dumps({"question": storable(question), "request": dict(request)}, sort_keys=True, default=str)
    return hashing.fingerprint(text)


@dataclass(frozen=True)
class _Place:
    path: str
    row: int


class Ledger:
    """The records in the folder `uri`. Reading is cheap to repeat: only what is new is read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs, self.path = resolve(uri)
        self._places: dict[str, _Place] = {}
        self._files: set[str] = set()
        self._refreshing = threading.Lock()
        self._writer: _Writer | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Take in what other writers have finished since the last time. Threads may call this and `get` at once."""
        with self._refreshing:
            while True:
                files = {info.path for info in _files(self.fs, self.path)}
                new = sorted(files - self._files)
                try:
                    found = [(path, _column(self.fs, path, "key")) for path in new]
                except FileNotFoundError:
                    continue  # merged into another file since it was listed
                break
            # Put in place as a whole: a record that has moved is missing at no moment.
            places = {key: place for key, place in self._places.items() if place.path in files}
            for path, keys in found:
                for row, key in enumerate(keys):
                    places.setdefault(key, _Place(path, row))
            self._places, self._files = places, files

    def get(self, key: str) -> TraceOutcome | None:
        """The recorded outcome of a request, or None."""
        return next((outcome for _, outcome in self.find([key])), None)

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, TraceOutcome]]:
        """The recorded outcomes among `keys`, file by file: one group of rows in memory at a time."""
        wanted = set(keys)
        while True:
            by_path: dict[str, list[tuple[int, str]]] = {}
            for key in wanted:
                place = self._places.get(key)
                if place is not None:
                    by_path.setdefault(place.path, []).append((place.row, key))
            try:
                for path, rows in sorted(by_path.items()):
                    for key, outcome in self._read(path, sorted(rows)):
                        wanted.discard(key)
                        yield key, outcome
                return
            except FileNotFoundError:  # merged into another file
                self.refresh()

    def in_vain_usd(self, keys: Iterable[str]) -> float:
        """What was paid for the requests `keys` without an answer that can be used."""
        wanted = set(keys)
        places = [key for key in self._places if _IN_VAIN in key and key.partition(_IN_VAIN)[0] in wanted]
        return sum(outcome.cost_usd for _, outcome in self.find(places))

    async def record(self, key: str, question: str, outcome: TraceOutcome) -> None:
        """Make one outcome durable; when this returns, no crash takes it away. OSError when it cannot be written.

        One that is not final is not found under `key` later on; its cost is.
        """
        self._writer = self._writer or _Writer(self.fs, self.path)
        key = key if outcome.is_final else f"{key}{_IN_VAIN}{uuid.uuid4().hex[:12]}"
        values = {name: value for name, value in asdict(outcome).items() if name in _OUTCOME}
        at = int(time.time() * 1e6)
        await self._writer.write({"key": key, "recorded_at": at, "question": storable(question), **values})

    def compact(self) -> None:
        """Merge small files into few, each record once. Others may read and write meanwhile."""
        small = [info for info in _files(self.fs, self.path) if (info.size or 0) < _SMALL_BYTES]
        seen: set[str] = set()
        while len(small) > 1:
            size, group = 0, list[str]()
            while small and size < _SMALL_BYTES:
                size += small[-1].size or 0
                group.append(small.pop().path)
            _merge(self.fs, self.path, group, seen)
        self.refresh()

    def check_writable(self) -> None:
        """Raise UserError when nothing can be written here: asked before anything is paid for."""
        try:
            path = _put(self.fs, self.path, f"_writable-{uuid.uuid4().hex[:12]}", pa.py_buffer(b"-"))
            self.fs.delete_file(path)
        except OSError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.uri}: the ledger cannot be written ({reason}); choose another --ledger") from error

    def _read(self, path: str, rows: list[tuple[int, str]]) -> Iterator[tuple[str, TraceOutcome]]:
        """The records of a file at `rows`, which are sorted."""
        with _named(path), self.fs.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            start, waiting = 0, iter(rows)
            row, key = next(waiting)
            for number in range(file.num_row_groups):
                end = start + file.metadata.row_group(number).num_rows
                if row < end:
                    table = file.read_row_group(number, columns=_OUTCOME)
                    while row < end:
                        yield key, _outcome(table.slice(row - start, 1).to_pylist()[0])
                        following = next(waiting, None)
                        if following is None:
                            return
                        row, key = following
                start = end


def _outcome(values: dict[str, Any]) -> TraceOutcome:
    values["status"] = Status(values["status"])
    return TraceOutcome(**values)


def _files(fs: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """The files of records in a folder; what is being written has a name that starts with an underscore."""
    infos = cast(list[pafs.FileInfo], fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)))
    return sorted(
        (info for info in infos if info.base_name.endswith(SUFFIX) and not info.base_name.startswith("_")),
        key=lambda info: info.path,
    )


def _column(fs: pafs.FileSystem, path: str, name: str) -> list[Any]:
    """One column of a file of records. UserError when the file is none."""
    with _named(path), fs.open_input_file(path) as source:
        return pq.read_table(source, columns=[name]).column(name).to_pylist()


@contextlib.contextmanager
def _named(path: str) -> Generator[None]:
    """UserError with the name of a file that cannot be read; one that is gone stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # a damaged page is an OSError to zstd
        raise UserError(
            f"{path}: not a file of paid records ({' '.join(str(error).split())}); restore it, or delete it to ask its "
            "questions again"
        ) from error


def _merge(fs: pafs.FileSystem, folder: str, paths: list[str], seen: set[str]) -> None:
    """Put the records of `paths` whose keys are not in `seen` into one file, then remove these.

    What somebody else has merged meanwhile is left out.
    """
    merged: list[str] = []
    taken: set[str] = set()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, RECORDS, compression="zstd") as writer:
        for path in paths:
            try:
                with _named(path), fs.open_input_file(path) as source:
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
    _put(fs, folder, f"merged-{uuid.uuid4().hex[:12]}{SUFFIX}", sink.getvalue())
    seen |= taken
    for path in merged:
        try:
            fs.delete_file(path)
        except FileNotFoundError:
            continue


def _put(fs: pafs.FileSystem, folder: str, name: str, content: pa.Buffer) -> str:
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


class _Writer:
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
                    await asyncio.to_thread(_merge, self.fs, self.path, small, set())

    def _write_file(self, records: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(records, schema=RECORDS)
        pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd")
        self._num_files += 1
        name = f"part-{self.name}-{self._num_files:06d}{SUFFIX}"
        self._own.append(_put(self.fs, self.path, name, sink.getvalue()))
