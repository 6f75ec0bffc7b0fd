"""Finished rows, kept where a killed run finds them again.

A journal is a folder of JSON Lines files. On a local disk every row is written to the file when it is added; object
stores know no appending, so there rows are kept until a batch is full. A file belongs to one writer and is never
written by another; the half-written last line that a kill can leave is not counted.
"""

from __future__ import annotations

import json
import uuid
from types import TracebackType
from typing import Any

import pyarrow.fs as pafs

from s1.artifacts import Artifact, join

BATCH_ROWS = 64  # of an object store


class Journal:
    """`with Journal(uri) as journal: journal.rows; journal.add(row)`."""

    def __init__(self, uri: str) -> None:
        folder = Artifact(uri)
        self._fs, self._path = folder.fs, folder.path
        self._fs.create_dir(self._path, recursive=True)
        self._name = uuid.uuid4().hex[:12]
        self._batches = 0
        self._pending: list[str] = []
        self._stream: Any = None
        self.rows: list[dict[str, Any]] = self._read()

    def _read(self) -> list[dict[str, Any]]:
        files = self._fs.get_file_info(pafs.FileSelector(self._path))
        rows: list[dict[str, Any]] = []
        for info in sorted((file for file in files if file.extension == "jsonl"), key=lambda file: file.path):
            with self._fs.open_input_stream(info.path) as stream:
                *lines, _ = stream.read().split(b"\n")  # what follows the last newline was cut off
            rows += map(json.loads, lines)
        return rows

    def __enter__(self) -> Journal:
        if isinstance(self._fs, pafs.LocalFileSystem):
            self._stream = open(join(self._path, f"{self._name}.jsonl"), "a", encoding="utf-8")
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Write `row` down. `rows` grows with it."""
        self.rows.append(row)
        line = json.dumps(row, ensure_ascii=True)
        if self._stream is not None:
            self._stream.write(line + "\n")
            self._stream.flush()
            return
        self._pending.append(line)
        if len(self._pending) == BATCH_ROWS:
            self._write_batch()

    def _write_batch(self) -> None:
        path = join(self._path, f"{self._name}-{self._batches:06d}.jsonl")
        with self._fs.open_output_stream(path) as sink:
            sink.write("".join(f"{line}\n" for line in self._pending).encode())
        self._batches += 1
        self._pending.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        elif self._pending:
            self._write_batch()
