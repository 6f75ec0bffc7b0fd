"""Selection on shards: rows that do not fit one machine, chosen by Ray actors that hold a part each.

Rows go to shards by a hash of their content, so every part is a random one. k-center gives the picks of one machine.
Facility location is RandGreeDi: every shard picks greedily among its own rows, the picks of all shards are the
candidates of a last greedy run, and the best of these solutions wins. In expectation its value is at least
(1 - 1/e) / 2 of the best possible one (Barbosa, Ene, Nguyen and Ward 2015), for the sum over the sample that
`s1.curation.facility` uses on one machine too; `docs/decisions/selection.md` has what was measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from s1.artifacts import resolve
from s1.curation import facility, farthest
from s1.curation.coverage import Matrix, unit_length
from s1.curation.diversity import content_keys, first_rank, generator
from s1.curation.quota import Room
from s1.errors import UserError

METHODS = ("k_center", "facility_location")
_ATTEMPTS = 4  # a node that is lost takes its shards along; new ones make the same picks


@dataclass(frozen=True)
class Table:
    """What is known of every row of a table but its embedding, by row number."""

    keep: NDArray[np.bool_]  # (N,) rows to choose from
    lengths: NDArray[np.float64]  # (N,)
    quality: NDArray[np.float64] | None  # (N,)
    domains: list[str] | None  # (N,)


@dataclass(frozen=True)
class File:
    """A Parquet file with a column `embedding`, and the row number of its first row."""

    uri: str
    first_row: int


@dataclass(frozen=True)
class Part:
    """Rows of one file that belong to one shard."""

    rows: NDArray[np.int64]  # (P,) row numbers
    keys: NDArray[np.uint64]  # (P,)
    points: Matrix  # (P, D)


class SelectionShard:
    """One shard: reads files, takes the rows that are its own, answers what a method asks."""

    def __init__(self, num_shards: int, seed: int) -> None:
        self._num_shards, self._seed = num_shards, seed
        self._points: Matrix = np.zeros((0, 0), dtype=np.float32)
        self._ranks: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._shard: farthest.Shard | None = None

    def read(self, file: File, table: Table) -> tuple[Part | str, ...]:
        """The kept rows of a file, one part for every shard; what is wrong with them instead, as text."""
        fs, path = resolve(file.uri)
        try:
            with fs.open_input_file(path) as source:
                column: Any = pq.read_table(source, columns=["embedding"])["embedding"].combine_chunks()
        except (pa.ArrowException, OSError) as error:
            return (f"{file.uri}: not readable as Parquet ({error}); run featurize again",) * self._num_shards
        rows = np.flatnonzero(table.keep[file.first_row : file.first_row + len(column)])
        if not len(rows):
            none = Part(rows, np.zeros(0, dtype=np.uint64), np.zeros((0, 0), dtype=np.float32))
            return (none,) * self._num_shards
        found = column.take(pa.array(rows))
        sizes = set(found.value_lengths().to_pylist())
        if len(sizes) > 1 or None in sizes:
            fault = f"{file.uri}: embeddings are missing or of different lengths; run featurize again"
            return (fault,) * self._num_shards
        points = np.asarray(found.flatten(), dtype=np.float32).reshape(len(rows), -1)
        rows = rows + file.first_row
        keys = content_keys(
            points,
            [table.lengths[rows], None if table.quality is None else table.quality[rows]],
            None if table.domains is None else [table.domains[row] for row in rows.tolist()],
            self._seed,
        )
        mine = [np.flatnonzero(keys % np.uint64(self._num_shards) == shard) for shard in range(self._num_shards)]
        return tuple(Part(rows[at], keys[at], points[at]) for at in mine)

    def hold(self, *parts: Part | str) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Keep the rows of this shard; their row numbers and keys."""
        whole = [part for part in parts if isinstance(part, Part) and len(part.rows)]
        for part in parts:
            if isinstance(part, str):
                raise UserError(part)
        if not whole:
            return self._rows, np.zeros(0, dtype=np.uint64)
        self._rows = np.concatenate([part.rows for part in whole])
        self._points = np.concatenate([part.points for part in whole])
        return self._rows, np.concatenate([part.keys for part in whole])

    def rank(self, ranks: NDArray[np.int64]) -> None:
        """Ranks of the rows of this shard among all rows; they are kept in this order from now on."""
        order = np.argsort(ranks)
        self._ranks, self._rows, self._points = ranks[order], self._rows[order], self._points[order]

    def start_k_center(self, table: Table, groups: NDArray[np.int64]) -> float:
        """Get ready for `front`; the largest squared length of a row."""
        quality = None if table.quality is None else table.quality[self._rows]
        self._shard = farthest.Shard(self._points, self._ranks, quality, groups[self._rows])
        return self._shard.largest_norm()

    def point(self, rank: int) -> tuple[Matrix, int] | None:
        """The row of that rank and its group, or None."""
        assert self._shard is not None
        return self._shard.point(rank) if len(self._ranks) else None

    def front(self, picked: farthest.Picked, grid: float, num_rows: int) -> farthest.Front | None:
        """The farthest rows of this shard; None when it has no rows."""
        assert self._shard is not None
        return self._shard.front(picked, grid, num_rows) if len(self._ranks) else None

    def sample(self, num_rows: int) -> tuple[NDArray[np.int64], Matrix]:
        """Ranks and rows, of unit length, of those among the first `num_rows` ranks that are here."""
        here = int(np.searchsorted(self._ranks, num_rows))
        return self._ranks[:here], unit_length(self._points[:here])

    def pick(
        self, sample: Matrix, size: int, table: Table, groups: NDArray[np.int64], most: dict[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Matrix]:
        """Greedy picks among the rows of this shard: ranks, row numbers, and the rows of unit length."""
        if not len(self._ranks):
            return self._ranks, self._rows, np.zeros((0, sample.shape[1]), dtype=np.float32)
        unit = unit_length(self._points)
        weight = np.ones(len(unit)) if table.quality is None else table.quality[self._rows]
        few = facility.num_candidates(len(unit), len(sample), size)  # those with the lowest ranks: a random part
        own = np.where(self._ranks < len(sample), self._ranks, -1)[:few]
        room = Room(groups[self._rows[:few]], most) if most else None
        picks = facility.lazy_greedy(unit[:few], facility.Sample(sample, own), weight[:few], min(size, few), room)
        return self._ranks[picks], self._rows[picks], unit[picks]


def select(
    method: str,
    files: Sequence[File],
    table: Table,
    size: int,
    seed: int,
    quotas: Mapping[str, int],
    num_shards: int,
    num_cpus: float,
) -> list[int]:
    """Row numbers in the order of their picks, by at least two shards. Needs a Ray session.

    When a node is lost all shards start again, `_ATTEMPTS` times in all.
    """
    import ray
    from ray.exceptions import ObjectLostError, RayActorError

    for left in reversed(range(_ATTEMPTS)):
        shards = _started(num_shards, num_cpus, seed)
        try:
            return _picked(shards, method, files, table, size, seed, quotas)
        except (RayActorError, ObjectLostError):
            if not left:
                raise
            print("select: a shard was lost with its node; all start again", file=sys.stderr)
        finally:
            for shard in shards:
                ray.kill(shard)
    raise AssertionError("the last attempt returns or raises")


def _started(num_shards: int, num_cpus: float, seed: int) -> list[Any]:
    """The actors of all shards."""
    import ray

    threads = str(max(1, (os.cpu_count() or 1) // num_shards))
    shard_class = ray.remote(SelectionShard).options(
        num_cpus=num_cpus, runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}}
    )
    return [cast(Any, shard_class).remote(num_shards, seed) for _ in range(num_shards)]


def _picked(
    shards: list[Any],
    method: str,
    files: Sequence[File],
    table: Table,
    size: int,
    seed: int,
    quotas: Mapping[str, int],
) -> list[int]:
    import ray

    num_shards = len(shards)
    told = ray.put(table)
    # Every file is read once, by one of the shards, and its rows are handed to those that they belong to.
    parts: list[Any] = [
        shards[at % num_shards].read.options(num_returns=num_shards).remote(file, told) for at, file in enumerate(files)
    ]
    held: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = _get(
        [shard.hold.remote(*(split[at] for split in parts)) for at, shard in enumerate(shards)]
    )
    del parts
    rows, ranks = _ranked(held)
    starts = np.cumsum([0, *(len(own) for own, _ in held)])
    _get([shard.rank.remote(ranks[starts[at] : starts[at + 1]]) for at, shard in enumerate(shards)])
    row_of_rank = rows[np.argsort(ranks)]
    size = min(size, len(rows))
    groups, most = _groups(table, quotas)
    held_groups = ray.put(groups)
    if method == "k_center":
        picks = _k_center(shards, told, held_groups, most, size, len(rows), seed)
    else:
        picks = _facility_location(shards, told, held_groups, most, size, len(rows))
    return row_of_rank[picks].tolist()


def _get(references: Any) -> Any:
    """Results of remote calls; a UserError of a shard is one here too."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise


def _ranked(
    held: Sequence[tuple[NDArray[np.int64], NDArray[np.uint64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of all shards, one after the other, and the rank of each."""
    rows = np.concatenate([own for own, _ in held])
    keys = np.concatenate([own for _, own in held])
    ranks = np.empty(len(rows), dtype=np.int64)
    ranks[np.lexsort((rows, keys))] = np.arange(len(rows))
    return rows, ranks


def _groups(table: Table, quotas: Mapping[str, int]) -> tuple[NDArray[np.int64], dict[int, int]]:
    """Code of every row's domain, and what each may give."""
    if table.domains is None or not quotas:
        return np.zeros(len(table.keep), dtype=np.int64), {}
    codes = {name: code for code, name in enumerate(sorted(set(table.domains)))}
    groups = np.array([codes[name] for name in table.domains], dtype=np.int64)
    return groups, {codes[name]: most for name, most in quotas.items() if name in codes}


def _k_center(
    shards: list[Any], table: Any, groups: Any, most: dict[int, int], size: int, num_rows: int, seed: int
) -> NDArray[np.int64]:
    import ray

    grid = farthest.grid_of(max(_get([shard.start_k_center.remote(table, groups) for shard in shards])))
    first = first_rank(generator(seed), num_rows)
    answers: list[tuple[Matrix, int] | None] = _get([shard.point.remote(first) for shard in shards])
    point, group = next(answer for answer in answers if answer is not None)

    def ask(picked: farthest.Picked) -> list[farthest.Front]:
        told = ray.put(picked)
        width = max(1, farthest.FRONT_ROWS // len(shards))
        fronts: list[farthest.Front | None] = _get([shard.front.remote(told, grid, width) for shard in shards])
        return [front for front in fronts if front is not None]

    return farthest.greedy(ask, first, point, group, size, grid, most)


def _facility_location(
    shards: list[Any], table: Any, groups: Any, most: dict[int, int], size: int, num_rows: int
) -> NDArray[np.int64]:
    import ray

    num_sample = facility.num_sample_rows(num_rows, size)
    parts = _get([shard.sample.remote(num_sample) for shard in shards])
    order = np.argsort(np.concatenate([ranks for ranks, _ in parts]))
    sample = np.concatenate([rows for ranks, rows in parts if len(ranks)])[order]
    told = ray.put(sample)
    found = _get([shard.pick.remote(told, size, table, groups, most) for shard in shards])
    known: Table = ray.get(table)
    ranks = np.concatenate([own for own, _, _ in found])
    rows = np.concatenate([own for _, own, _ in found])
    unit = np.concatenate([own for _, _, own in found])
    weight = np.ones(len(rows)) if known.quality is None else known.quality[rows]
    room = Room(ray.get(groups)[rows], most) if most else None
    own = np.where(ranks < len(sample), ranks, -1)
    picks = facility.lazy_greedy(unit, facility.Sample(sample, own), weight, min(size, len(unit)), room)
    solutions = [(ranks[picks], unit[picks]), *((own, rows_of) for own, _, rows_of in found if len(own) >= size)]
    if known.quality is not None:
        return solutions[0][0]
    return max(solutions, key=lambda solution: facility.value(solution[1], sample))[0]
