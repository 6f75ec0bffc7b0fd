"""Rows that come in any order, written in order, with a bounded part of them in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s1.errors import UserError

POSITION = "position"
_WAITING_ROWS = 512


class Spool:
    """Rows of `schema`, each with its position, on this machine's temporary disk until they are read again.

    Positions `n * bucket_rows` up to the next multiple share a file; one such file is read and sorted at a time.
    """

    def __init__(self, schema: pa.Schema, bucket_rows: int) -> None:
        self.schema = schema.insert(0, pa.field(POSITION, pa.int64()))
        self.bucket_rows = bucket_rows
        self._folder = tempfile.TemporaryDirectory(prefix="s1-spool-")
        self._waiting: dict[int, list[Mapping[str, Any]]] = {}
        self._num_waiting = 0
        self._writers: dict[int, pq.ParquetWriter] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
        self._folder.cleanup()

    def add(self, position: int, row: Mapping[str, Any]) -> None:
        """Keep a row; keys that the schema does not know are left out."""
        self._waiting.setdefault(position // self.bucket_rows, []).append({**row, POSITION: position})
        self._num_waiting += 1
        if self._num_waiting >= _WAITING_ROWS:
            self._write_out()

    def tables(self) -> Iterator[pa.Table]:
        """All rows, bucket by bucket, sorted by position. Nothing can be added any more."""
        self._write_out()
        for writer in self._writers.values():
            writer.close()
        for bucket in sorted(self._writers):
            yield pq.read_table(self._path(bucket)).sort_by(POSITION)

    def _write_out(self) -> None:
        try:
            for bucket, rows in self._waiting.items():
                if bucket not in self._writers:
                    self._writers[bucket] = pq.ParquetWriter(self._path(bucket), self.schema, compression="zstd")
                self._writers[bucket].write_table(pa.Table.from_pylist(rows, schema=self.schema))
        except OSError as error:
            raise UserError(
                f"{self._folder.name}: traces cannot be set down here ({error}); set TMPDIR to a disk with room and "
                "run the same command again"
            ) from error
        self._waiting, self._num_waiting = {}, 0

    def _path(self, bucket: int) -> Path:
        return Path(self._folder.name) / f"{bucket}.parquet"
