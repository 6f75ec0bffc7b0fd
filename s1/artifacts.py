"""An artifact: a directory of Parquet files (or of model files) and a manifest, committed as a whole.

Local paths and every `pyarrow.fs` URI (s3://, gs://) behave alike. Files are written into a staging folder; `commit`
moves them into place and writes the manifest last. An artifact without a manifest does not exist for any reader of this
project, so half-written output is never read. Parquet readers skip names with a leading underscore: the staging folder,
the manifest and every other file of a table that is not Parquet have one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s1 import schema as schemas
from s1.errors import UserError

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What was asked for, what came of it and what it cost. Written last; its presence is the commit."""

    job: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]  # name of the input -> its fingerprint
    code_version: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows
    seconds: float = 0.0
    cost_usd: float = 0.0
    files: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # what else the job wants to tell the report


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """File system and path of a local path or URI."""
    try:
        if "://" in uri:
            return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{uri}: not a path that can be opened ({error}); use a local path, s3://… or gs://…"
        ) from error
    return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    return "/".join((uri.rstrip("/"), *parts))


class Artifact:
    """One directory with a manifest, at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs, self.path = resolve(uri)

    def __repr__(self) -> str:
        return f"Artifact({self.uri!r})"

    def exists(self) -> bool:
        """Whether the folder is there, committed or not."""
        return self._exists(self.path)

    def _exists(self, path: str) -> bool:
        return self.fs.get_file_info(path).type != pafs.FileType.NotFound

    def manifest(self) -> Manifest | None:
        """The manifest, or None when the artifact was never committed."""
        path = join(self.path, MANIFEST)
        if not self._exists(path):
            return None
        with self.fs.open_input_stream(path) as stream:
            raw = stream.read()
        try:
            values = json.loads(raw)
            values["files"] = tuple(values["files"])
            return Manifest(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self.uri}/{MANIFEST}: not a manifest ({error}); delete the folder and run its job again"
            ) from error

    @contextmanager
    def staging(self) -> Generator[Staging]:
        """A fresh staging folder; what is left of earlier, uncommitted attempts is removed first."""
        try:
            self.fs.create_dir(self.path, recursive=True)
            for info in self.fs.get_file_info(pafs.FileSelector(self.path)):
                if info.type == pafs.FileType.Directory and info.base_name.startswith("_staging-"):
                    self.fs.delete_dir(info.path)
            stage = Staging(self, join(self.path, f"_staging-{uuid.uuid4().hex[:8]}"))
            self.fs.create_dir(stage.path, recursive=True)
        except OSError as error:
            raise UserError(f"{self.uri}: cannot be written ({error}); choose a folder that can be") from error
        yield stage

    def read(self, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The whole table, checked against `schema`, in the order in which it was written."""
        schema = _of_columns(schema, columns)
        tables = [self._read_file(path, schema, columns) for path in self.parquet_paths(schema)]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _read_file(self, path: str, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
        try:
            with self.fs.open_input_file(path) as source:
                schemas.check(pq.read_schema(source), schema, path)
                source.seek(0)
                return pq.read_table(source, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not readable as Parquet ({error}); run its job again") from error

    def batches(
        self, schema: pa.Schema, columns: list[str] | None = None, rows: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """The table in batches, checked and in order; UserError that names the file when one cannot be read."""
        schema = _of_columns(schema, columns)
        for path in self.parquet_paths(schema):
            done = 0
            try:
                with self.fs.open_input_file(path) as source:
                    file = pq.ParquetFile(source)
                    schemas.check(file.schema_arrow, schema, path)
                    for batch in file.iter_batches(rows, columns=columns):
                        yield batch
                        done += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"{path}: not readable as Parquet after row {done} ({error}); run its job again"
                ) from error

    def parquet_paths(self, schema: pa.Schema) -> list[str]:
        """Paths of the committed Parquet files, in order. UserError when there is no committed table."""
        manifest = self.manifest()
        if manifest is None:
            name = schemas.table_name(schema)
            raise UserError(f"{self.uri}: no committed {name} table here; run the job that writes it first")
        return [join(self.path, name) for name in manifest.files if name.endswith(".parquet")]


def _of_columns(schema: pa.Schema, columns: list[str] | None) -> pa.Schema:
    """What is needed of `schema` to read these columns; None: all."""
    if columns is None:
        return schema
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


class Staging:
    """Where an attempt writes before it counts."""

    def __init__(self, artifact: Artifact, path: str) -> None:
        self.artifact = artifact
        self.fs = artifact.fs
        self.path = path

    @property
    def local_path(self) -> Path:
        """The folder as a local path, for libraries that write files themselves. Local artifacts only."""
        if not isinstance(self.fs, pafs.LocalFileSystem):
            raise UserError(f"{self.artifact.uri}: this job needs a local or mounted folder, not an object store")
        return Path(self.path)

    def write_table(self, table: pa.Table, name: str = "part-00000.parquet", row_group_rows: int = 4096) -> None:
        with self.fs.open_output_stream(join(self.path, name)) as sink:
            pq.write_table(table, sink, row_group_size=row_group_rows, compression="zstd")

    def write_bytes(self, name: str, content: bytes) -> None:
        if "/" in name:
            self.fs.create_dir(join(self.path, name.rpartition("/")[0]), recursive=True)
        with self.fs.open_output_stream(join(self.path, name)) as sink:
            sink.write(content)

    def commit(self, manifest: Manifest) -> Manifest:
        """Put the staged files in the artifact's place and write its manifest. Returns the manifest as written."""
        artifact = self.artifact
        names = sorted(
            info.path.removeprefix(self.path).lstrip("/")
            for info in self.fs.get_file_info(pafs.FileSelector(self.path, recursive=True))
            if info.type == pafs.FileType.File
        )
        written = replace(manifest, files=tuple(names))
        content = json.dumps(asdict(written), indent=2, ensure_ascii=False, default=str).encode()
        temporary = join(artifact.path, f"{MANIFEST}.{uuid.uuid4().hex[:8]}")
        # Before anything of the old artifact goes: a disk that is full is noticed here at the latest.
        with self.fs.open_output_stream(temporary) as sink:
            sink.write(content)
        old = artifact.manifest()
        if old is not None:
            self.fs.delete_file(join(artifact.path, MANIFEST))
            for name in set(old.files) - set(names):
                path = join(artifact.path, name)
                if self.fs.get_file_info(path).type == pafs.FileType.File:
                    self.fs.delete_file(path)
        for name in names:
            if "/" in name:
                self.fs.create_dir(join(artifact.path, name.rpartition("/")[0]), recursive=True)
            self.fs.move(join(self.path, name), join(artifact.path, name))
        self.fs.delete_dir(self.path)
        self.fs.move(temporary, join(artifact.path, MANIFEST))
        return written
