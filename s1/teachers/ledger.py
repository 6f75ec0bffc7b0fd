"""A durable record of every finished request, written before its result is used.

A folder of Parquet files, local or on any `pyarrow.fs` URI; whatever reads Parquet reads it. Any number of workers
write at once: each puts the records that came up together into a file of its own, and merges its small files now and
then. Keys come from the content of a request (question, model, parameters, prompt version), never from row positions:
adding rows, reordering and other numbers of workers buy nothing twice. What was paid for in vain (a timeout, an answer
that was broken off) is recorded too, beside the key of its request: it is asked again, and counts as spent. After a
kill between a merge and the removal of what was merged a record lies in two files; they are the same, and the first one
counts.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s1 import hashing
from s1.artifacts import resolve
from s1.errors import UserError
from s1.teachers import ledger_files
from s1.teachers.protocol import Status, TraceOutcome, storable

_OUTCOME = ledger_files.OUTCOME.names
_IN_VAIN = "+"  # between the key of a request and what tells apart those of its answers that cannot be used
_TRIES = 4  # of reading: a store that is out of reach may be back in a moment
_PAUSE_S = 0.5  # before the second try; doubles


def request_key(question: str, request: Mapping[str, Any]) -> str:
    """The key of what is asked: the question's exact text and everything else that shapes the answer."""
    text = json.dumps({"question": storable(question), "request": dict(request)}, sort_keys=True, default=str)
    return hashing.fingerprint(text)


@dataclass(frozen=True)
class _Place:
    path: str
    row: int


class Ledger:
    """The records in the folder `uri`. Reading is cheap to repeat: only what is new is read.

    UserError, when it cannot be read after a few tries, or holds a file that is none of records.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs, self.path = resolve(uri)
        self._places: dict[str, _Place] = {}
        self._files: set[str] = set()
        self._refreshing = threading.Lock()
        self._writer: ledger_files.Writer | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Take in what other writers have finished since the last time. Threads may call this and `get` at once."""
        with self._refreshing:
            failed = 0
            while True:
                try:
                    files = {info.path for info in ledger_files.files(self.fs, self.path)}
                    new = sorted(files - self._files)
                    found = [(path, ledger_files.column(self.fs, path, "key")) for path in new]
                except FileNotFoundError:
                    continue  # merged into another file since it was listed
                except OSError as error:
                    failed += 1
                    self._bear(failed, error)
                    continue
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
        wanted, failed = set(keys), 0
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
            except OSError as error:
                failed += 1
                self._bear(failed, error)

    def teachers(self) -> set[str]:
        """Who has answered at least one of the requests that are recorded."""
        while True:
            try:
                columns = [ledger_files.column(self.fs, path, "teacher") for path in sorted(self._files)]
                return {name for column in columns for name in set(column)}
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
        self._writer = self._writer or ledger_files.Writer(self.fs, self.path)
        key = key if outcome.is_final else f"{key}{_IN_VAIN}{uuid.uuid4().hex[:12]}"
        values = {name: value for name, value in asdict(outcome).items() if name in _OUTCOME}
        at = int(time.time() * 1e6)
        await self._writer.write({"key": key, "recorded_at": at, "question": storable(question), **values})

    def compact(self) -> None:
        """Merge small files into few, each record once. Others may read and write meanwhile."""
        seen: set[str] = set()
        try:
            small = [
                info for info in ledger_files.files(self.fs, self.path) if (info.size or 0) < ledger_files.SMALL_BYTES
            ]
            while len(small) > 1:
                size, group = 0, list[str]()
                while small and size < ledger_files.SMALL_BYTES:
                    size += small[-1].size or 0
                    group.append(small.pop().path)
                ledger_files.merge(self.fs, self.path, group, seen)
        except OSError as error:
            raise self._out_of_reach(error) from error
        self.refresh()

    def check_writable(self) -> None:
        """Raise UserError when nothing can be written here: asked before anything is paid for."""
        try:
            path = ledger_files.put(self.fs, self.path, f"_writable-{uuid.uuid4().hex[:12]}", pa.py_buffer(b"-"))
            self.fs.delete_file(path)
        except OSError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.uri}: the ledger cannot be written ({reason}); choose another --ledger") from error

    def _bear(self, failed: int, error: OSError) -> None:
        """Wait after the failed try number `failed` (from 1); UserError after the last one."""
        if failed == _TRIES:
            raise self._out_of_reach(error) from error
        time.sleep(_PAUSE_S * 2 ** (failed - 1))

    def _out_of_reach(self, error: OSError) -> UserError:
        reason = " ".join(str(error).split())
        return UserError(
            f"{self.uri}: the ledger is out of reach ({reason}); nothing of it is lost, run the same command again "
            "when it can be read and written"
        )

    def _read(self, path: str, rows: list[tuple[int, str]]) -> Iterator[tuple[str, TraceOutcome]]:
        """The records of a file at `rows`, which are sorted."""
        with ledger_files.named(self.fs, path), self.fs.open_input_file(path) as source:
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
