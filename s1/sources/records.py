"""Records of files, one after another, with the file and the row that each came from.

JSON lines, JSON, CSV and Parquet, each also gzipped; a file, a folder or a glob, local or any `pyarrow.fs` URI. What
cannot be read ends in a UserError that names the file and, where there is one, the row (counted from 1).
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s1.artifacts import resolve
from s1.errors import UserError

HUB = "hub:"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_GLOB = frozenset("*?[")
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Record:
    """One row as it was found, and where."""

    file: str
    row: int  # from 1
    values: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}: row {self.row}"


def read(reference: str) -> Iterator[Record]:
    """Records of a path, or of `hub:owner/name[:split]`, in a stable order."""
    if reference.startswith(HUB):
        from s1.sources import hub

        name, _, split = reference.removeprefix(HUB).partition(":")
        return hub.records(hub.Hub(name=name, split=split or "train"))
    fs, paths = find(reference)
    return (record for path in paths for record in _read_file(fs, path))


def find(reference: str) -> tuple[pafs.FileSystem, list[str]]:
    """The files that a path, a folder or a glob stands for, sorted. UserError when there is none."""
    fs, path = resolve(reference)
    try:
        names = _glob(fs, path) if _GLOB & set(path) else _listed(fs, path)
    except OSError as error:
        raise UserError(f"{reference}: cannot be opened ({error}); check the path and its rights") from error
    if names is None:
        raise UserError(f"{reference}: no such file or folder; give a file, a folder or a glob")
    known = [name for name in names if _format(name)]
    if not known:
        raise UserError(f"{reference}: no file to read here; the formats are {', '.join(SUFFIXES)}, each also with .gz")
    return fs, known


def state(reference: str) -> list[list[object]]:
    """Name, size and time of every file that `reference` stands for: changes when one of them does."""
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
    """Name of a file without folders and known endings: `data/gsm8k.jsonl.gz` is `gsm8k`."""
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".gz")
    return name.removesuffix(_format(name) or "")


def _read_file(fs: pafs.FileSystem, path: str) -> Iterator[Record]:
    """Records of one file; every fault of the file becomes a UserError that names it."""
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    row = 0
    try:
        with _opened(fs, path) as stream:
            for values in readers[_format(path) or ".jsonl"](stream):
                if not isinstance(values, dict):
                    raise _BadRow(f"is a {type(values).__name__}, must be an object with named fields")
                row += 1
                yield Record(path, row, cast(dict[str, Any], values))
    except _BadRow as error:
        raise UserError(f"{path}: row {row + 1}: {error}") from error
    except UnicodeDecodeError as error:  # in a column of a Parquet file
        raise UserError(f"{path}: after row {row}: text that is not UTF-8 ({error})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: after row {row}: damaged or truncated gzip ({error}); fetch it again") from error
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet" if _format(path) == ".parquet" else "file"
        raise UserError(f"{path}: not readable as {kind} ({' '.join(str(error).split())})") from error


class _BadRow(ValueError):
    """The row after the last good one is broken."""


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
            yield _json_value(_decoded(line))


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


def _csv(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    lines = (_decoded(line) for line in io.BufferedReader(cast(io.RawIOBase, stream)))
    reader = csv.DictReader(lines, strict=True)
    try:
        for values in reader:
            if None in values or None in values.values():
                raise _BadRow(f"another number of fields than the header's {len(reader.fieldnames or ())}")
            yield values
    except csv.Error as error:
        raise _BadRow(f"not CSV ({error})") from error


def _parquet(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    # Parquet is read from its end: a gzipped file has to be unpacked first.
    source = pa.BufferReader(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
    for batch in pq.ParquetFile(source).iter_batches(_BATCH_ROWS):
        yield from batch.to_pylist()
