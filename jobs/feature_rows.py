"""FEATURES as `select` reads it: what decides about each row, the embeddings of those that are left, the files.

Of a large table the embeddings are most of the memory: they are read once, file by file, into the one array that holds
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors import selector
from s1 import schema
from s1.artifacts import Artifact, join
from s1.errors import UserError

EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Row:
    """What decides about one row of FEATURES: columns of that name."""

    question_id: str
    source: str
    domain: str | None
    quality_issues: Sequence[str]
    trace_correct: bool | None
    solver_correct: bool | None
    solver_attempts: int | None
    solver_solved: int | None
    trace_tokens: int
    thinking_tokens: int


def rows(features: Artifact) -> list[Row]:
    """All rows in their order. UserError when a question is there twice."""
    names = [field.name for field in fields(Row)]
    found: list[Row] = []
    known: dict[object, object] = {}  # one copy of what many rows share
    for batch in features.batches(schema.FEATURES, names):
        columns = {name: batch[name].to_pylist() for name in names}
        for name in ("source", "domain"):
            columns[name] = [known.setdefault(value, value) for value in columns[name]]
        columns["quality_issues"] = list(map(tuple, columns["quality_issues"]))  # most are the one empty tuple
        found += map(Row, *columns.values())
    schema.check_keys([row.question_id for row in found], features.uri)
    return found


def embeddings(features: Artifact, left: Sequence[int]) -> NDArray[np.float32]:
    """Embeddings (N, D) of the rows of these numbers, which ascend.

    UserError when one is missing or of another length than the others.
    """
    wanted = np.asarray(left, dtype=np.int64)
    points = np.zeros((0, 0), dtype=np.float32)
    first = done = 0  # rows of the table, and of the result, before this batch
    for batch in features.batches(schema.FEATURES, [EMBEDDING]):
        end = int(np.searchsorted(wanted, first + batch.num_rows))
        if end > done:
            column = batch[EMBEDDING].take(pa.array(wanted[done:end] - first))
            if not done:
                points = np.empty((len(wanted), column.value_lengths()[0].as_py() or 0), dtype=np.float32)
            if not points.shape[1] or set(column.value_lengths().to_pylist()) != {points.shape[1]}:
                raise UserError(f"{features.uri}: embeddings are missing or of different lengths; run featurize again")
            points[done:end] = np.asarray(column.flatten(), dtype=np.float32).reshape(end - done, -1)
        first, done = first + batch.num_rows, end
    return points


def files(features: Artifact) -> list[selector.File]:
    """The files of the table, each with the number of its first row."""
    found: list[selector.File] = []
    first = 0
    folder = features.uri if "://" in features.uri else features.path
    for path in features.parquet_paths(schema.FEATURES):
        found.append(selector.File(join(folder, path.removeprefix(features.path).lstrip("/")), first))
        with features.fs.open_input_file(path) as source:
            first += pq.ParquetFile(source).metadata.num_rows
    return found
