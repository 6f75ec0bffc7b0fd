"""A durable record of every finished request, written before its result is used.

A folder of append-only files, one per writer, so that any number of workers write at once. A record is one line of
JSON, on disk (fsync) when `record` returns; on an object store every group of records is an object. Keys come
from the content of a request (question, model, parameters, prompt version), never from row positions: adding rows,
reordering and other numbers of workers buy nothing twice. What a killed writer left unfinished at the end of its file
is not a record and is passed over.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.fs as pafs

from s1 import hashing
from s1.artifacts import join, resolve
from s1.errors import UserError
from s1.teachers.protocol import Status, TraceOutcome

SUFFIX = ".jsonl"


def request_key(question: str, request: Mapping[str, Any]) -> str:
    """The key of what is asked: the question's exact text and everything else that shapes the answer."""
    return hashing.fingerprint({"question": question, "request": dict(request)})


@dataclass(frozen=True)
class _Place:
    path: str
    offset: int
    size: int


class Ledger:
    """The records in the folder `uri`. Reading is cheap to repeat: only what is new is read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs, self.path = resolve(uri)
        self._places: dict[str, _Place] = {}
        self._read_to: dict[str, int] = {}
        self._writer: _Writer | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Take in what other writers have finished since the last time."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        for info in sorted(cast(list[pafs.FileInfo], self.fs.get_file_info(selector)), key=lambda info: info.path):
            known = self._read_to.get(info.path, 0)
            if info.path.endswith(SUFFIX) and (info.size or 0) > known:
                self._read_to[info.path] = known + self._index(info.path, known)

    def get(self, key: str) -> TraceOutcome | None:
        """The recorded outcome of a request, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        with self.fs.open_input_file(place.path) as source:
            source.seek(place.offset)
            return _outcome(json.loads(source.read(place.size)))

    async def record(self, key: str, outcome: TraceOutcome) -> None:
        """Make one outcome durable; when this returns, no crash takes it away. OSError when it cannot be written."""
        self._writer = self._writer or _Writer(self.fs, self.path)
        await self._writer.write(json.dumps({"key": key, **asdict(outcome)}, ensure_ascii=False))

    def _index(self, path: str, start: int) -> int:
        """Note where the records of a file lie from `start`; returns how many bytes were whole lines."""
        with self.fs.open_input_file(path) as source:
            source.seek(start)
            content = source.read()
        offset = 0
        for line in _whole_lines(content):
            try:
                key = json.loads(line)["key"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}: byte {start + offset}: not a record of a request ({error}); restore the file, or delete "
                    "this line to ask again"
                ) from error
            self._places.setdefault(key, _Place(path, start + offset, len(line)))
            offset += len(line)
        return offset


def _whole_lines(content: bytes) -> Iterator[bytes]:
    """Lines with their ends; a last one without is still being written, or its writer was killed."""
    return (line + b"\n" for line in content.split(b"\n")[:-1])


def _outcome(values: dict[str, Any]) -> TraceOutcome:
    values.pop("key")
    values["status"] = Status(values["status"])
    return TraceOutcome(**values)


class _Writer:
    """One file of a ledger. Records that arrive while a write is under way go together into the next one."""

    def __init__(self, fs: pafs.FileSystem, path: str) -> None:
        self.fs, self.path = fs, path
        self.name = uuid.uuid4().hex[:12]
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._descriptor: int | None = None
        self._num_objects = 0

    async def write(self, line: str) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line.encode() + b"\n", done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._append, b"".join(line for line, _ in group))
            except OSError as error:
                self._start_new_file()
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in group:
                    if not done.done():
                        done.set_result(None)

    def _start_new_file(self) -> None:
        """After a failed write, whose half line must stay the last one of its file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self.name = None, uuid.uuid4().hex[:12]

    def _append(self, content: bytes) -> None:
        if not isinstance(self.fs, pafs.LocalFileSystem):
            self._num_objects += 1
            with self.fs.open_output_stream(join(self.path, f"{self.name}-{self._num_objects:08d}{SUFFIX}")) as sink:
                sink.write(content)
            return
        if self._descriptor is None:
            folder = Path(self.path)
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._descriptor = os.open(folder / f"{self.name}{SUFFIX}", flags, 0o644)
            _sync_folder(folder)
        written = 0
        while written < len(content):
            written += os.write(self._descriptor, content[written:])
        os.fsync(self._descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
