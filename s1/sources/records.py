"""Records of files, one after another, with the file and the row that each came from.

JSON lines, JSON, CSV and Parquet, each also gzipped; a file, a folder or a glob, local or any `pyarrow.fs` URI. What
cannot be read ends in a UserError that names the file and, where there is one, the row (counted from 1); or, when the
caller takes faults, it is told to the caller in these words, and reading goes on with what follows. Rows of data sets
of the hub and of a function of one's own are records too.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import inspect
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NoReturn, Protocol, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s1 import extensions
from s1.artifacts import resolve
from s1.errors import UserError

if TYPE_CHECKING:
    from s1.sources.hub import Hub

HUB = "hub:"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_GLOB = frozenset("*?[")
_BATCH_ROWS = 1024
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of such bytes


@dataclass(frozen=True)
class Record:
    """One row as it was found, and where."""

    file: str
    row: int  # from 1
    values: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}: row {self.row}"


class Fault(Protocol):
    """Takes one line that names the file and the row, and how many rows it is about."""

    def __call__(self, line: str, num_rows: int = 1) -> None: ...


def stop(line: str, num_rows: int = 1) -> NoReturn:
    """The fault as an error: nothing more is read."""
    raise UserError(line)


def read(reference: str, on_fault: Fault = stop) -> Iterator[Record]:
    """Records of a path, of `hub:owner/name[/config][:split]` or of `module:function`, in a stable order."""
    if extensions.is_reference(reference):
        return _own(reference, on_fault)
    if reference.startswith(HUB):
        from s1.sources import hub

        return hub.records(_data_set(reference))
    fs, paths = find(reference)
    return (record for path in paths for record in _read_file(fs, path, on_fault))


def on_hub(references: Iterable[str]) -> tuple[Hub, ...]:
    """Those of `references` that are data sets of the hub."""
    return tuple(_data_set(reference) for reference in references if reference.startswith(HUB))


def places(reference: str) -> frozenset[object]:
    """The data set, the function or the files that `reference` stands for, however it names them."""
    if extensions.is_reference(reference):
        return frozenset({reference})
    return frozenset(on_hub([reference]) or find(reference)[1])


def _data_set(reference: str) -> Hub:
    """The data set that `hub:owner/name[/config][:split]` names."""
    from s1.sources import hub

    name, _, split = reference.removeprefix(HUB).partition(":")
    folders = name.split("/")
    config = folders.pop() if len(folders) == 3 and folders[0] else None
    return hub.Hub(name="/".join(folders), config=config, split=split or "train")


def check(reference: str) -> None:
    """Raise UserError when there is nothing to read. Data sets of the hub are looked up when they are read."""
    if extensions.is_reference(reference):
        _function(reference)
    elif not reference.startswith(HUB):
        find(reference)


def _function(reference: str) -> Callable[[], Iterable[Any]]:
    """The function of `module:function`, which takes nothing and gives rows."""
    found = extensions.load(reference)
    if not inspect.isfunction(found) or inspect.iscoroutinefunction(found) or not _takes_nothing(found):
        raise UserError(f"{reference!r} must be a function without arguments that returns rows, each a dict")
    return found


def _takes_nothing(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _own(reference: str, on_fault: Fault) -> Iterator[Record]:
    """Rows that a function of the user's gives."""
    for row, values in enumerate(_function(reference)(), start=1):
        if isinstance(values, dict):
            yield Record(reference, row, cast(dict[str, Any], values))
        else:
            on_fault(f"{reference}: row {row}: is a {type(values).__name__}, must be a dict with named fields")


def find(reference: str) -> tuple[pafs.FileSystem, list[str]]:
    """The files that a path, a folder or a glob stands for, sorted. UserError when there is none."""
    fs, path = resolve(reference)
    try:
        names = _glob(fs, path) if _GLOB & set(path) else _listed(fs, path)
    except OSError as error:
        raise UserError(f"{reference}: cannot be opened ({error}); check the path and its permissions") from error
    if names is None:
        raise UserError(f"{reference}: no such file or folder; give a file, a folder or a glob")
    known = [name for name in names if _format(name)]
    if not known:
        raise UserError(f"{reference}: no file to read here; the formats are {', '.join(SUFFIXES)}, each also with .gz")
    return fs, known


def state(reference: str) -> list[list[object]]:
    """Name, size and time of every file that `reference` stands for: changes when one of them does.

    Of a function of one's own, the state of its code.
    """
    if extensions.is_reference(reference):
        return [[reference, extensions.state(reference)]]
    if not reference or reference.startswith(HUB):
        return []
    fs, paths = find(reference)
    infos = cast(list[pafs.FileInfo], fs.get_file_info(paths))
    return [[info.path, info.size, info.mtime_ns] for info in infos]


def _listed(fs: pafs.FileSystem, path: str) -> list[str] | None:
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        return None
    if info.type == pafs.FileType.File:
        return [path]
    return _files(fs, path)


def _glob(fs: pafs.FileSystem, pattern: str) -> list[str] | None:
    first = min(pattern.index(mark) for mark in _GLOB & set(pattern))
    folder = pattern[:first].rpartition("/")[0]
    if fs.get_file_info(folder).type == pafs.FileType.NotFound:
        return None
    # A star stays inside its folder, as in a shell.
    depth = pattern.count("/")
    return [path for path in _files(fs, folder) if path.count("/") == depth and fnmatch.fnmatchcase(path, pattern)]


def _files(fs: pafs.FileSystem, folder: str) -> list[str]:
    infos = cast(Iterable[pafs.FileInfo], fs.get_file_info(pafs.FileSelector(folder, recursive=True)))
    return sorted(info.path for info in infos if info.type == pafs.FileType.File and info.base_name[0] not in "._")


def _format(path: str) -> str | None:
    name = path.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def stem(path: str) -> str:
    """Name of a file without folders and known endings: `data/gsm8k.jsonl.gz` is `gsm8k`. Of a function its name."""
    if extensions.is_reference(path):
        return path.partition(":")[2]
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".gz")
    return name.removesuffix(_format(name) or "")


def _read_file(fs: pafs.FileSystem, path: str, on_fault: Fault) -> Iterator[Record]:
    """Records of one file; every fault of the file is told with its name."""
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    row = 0
    try:
        with _opened(fs, path) as stream:
            for values in readers[_format(path) or ".jsonl"](stream):
                if isinstance(values, _Lost):
                    on_fault(f"{path}: rows {row + 1} to {row + values.num_rows}: {values.reason}", values.num_rows)
                    row += values.num_rows
                    continue
                row += 1
                if isinstance(values, _BadRow):
                    on_fault(f"{path}: row {row}: {values}")
                elif not isinstance(values, dict):
                    on_fault(f"{path}: row {row}: is a {type(values).__name__}, must be an object with named fields")
                else:
                    yield Record(path, row, cast(dict[str, Any], values))
    except _BadRow as error:  # where the next row begins is not known
        on_fault(f"{path}: row {row + 1}: {error}")
    except UnicodeDecodeError as error:  # in a column of a Parquet file
        on_fault(f"{path}: after row {row}: text that is not UTF-8 ({error})")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        on_fault(f"{path}: after row {row}: damaged or truncated gzip ({error}); fetch it again")
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet" if _format(path) == ".parquet" else "file"
        on_fault(f"{path}: not readable as {kind} ({' '.join(str(error).split())})")


class _BadRow(ValueError):
    """A row is broken. As a value: the next one can be read; raised: it cannot."""


@dataclass(frozen=True)
class _Lost:
    """Rows that cannot be read, among others that can."""

    num_rows: int
    reason: str


@contextmanager
def _opened(fs: pafs.FileSystem, path: str) -> Generator[IO[bytes]]:
    with fs.open_input_file(path) as source:
        raw = cast(IO[bytes], source)
        if path.lower().endswith(".gz"):
            with gzip.open(raw) as stream:
                yield cast(IO[bytes], stream)
        else:
            yield raw


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _BadRow(f"not UTF-8 (byte {error.start} of the row); save the file as UTF-8") from error


def _json_lines(stream: IO[bytes]) -> Iterator[Any]:
    for line in io.BufferedReader(cast(io.RawIOBase, stream)):
        if line.strip():
            try:
                yield _json_value(_decoded(line))
            except _BadRow as error:
                yield error


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _BadRow(f"not JSON ({error})") from error
    except RecursionError as error:
        raise _BadRow("not usable JSON (nested too deeply)") from error


def _json(stream: IO[bytes]) -> Iterator[Any]:
    """A list of objects, or JSON lines under the other name."""
    content = stream.read()
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_lines(io.BytesIO(content))
        return
    yield from _json_value(_decoded(content))


def _csv(stream: IO[bytes]) -> Iterator[Any]:
    csv.field_size_limit(2**31 - 1)
    # A row may be many lines: which row is not UTF-8 is known only when it is whole.
    buffered = io.BufferedReader(cast(io.RawIOBase, stream))
    reader = csv.DictReader((line.decode("utf-8-sig", "surrogateescape") for line in buffered), strict=True)
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield _BadRow(f"not CSV ({error})")
            continue
        if values is None:
            return
        if None in values or None in values.values():
            yield _BadRow(f"another number of fields than the header's {len(reader.fieldnames or ())}")
        elif _NOT_UTF8.search("".join((*values, *values.values()))):
            yield _BadRow("not UTF-8 (the row or the header); save the file as UTF-8")
        else:
            yield values


def _parquet(stream: IO[bytes]) -> Iterator[Any]:
    # Parquet is read from its end: a gzipped file has to be unpacked first.
    source = pa.BufferReader(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
    file = pq.ParquetFile(source)
    for group in range(file.num_row_groups):
        done = 0
        try:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group]):
                yield from batch.to_pylist()
                done += batch.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = f"not readable as Parquet ({' '.join(str(error).split())})"
            yield _Lost(file.metadata.row_group(group).num_rows - done, reason)
