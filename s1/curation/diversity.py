"""Choose rows that differ from each other: numpy in, indices out.

`select` first puts the rows into an order that depends on nothing but their content and the seed, and works on that:
the picks are the same however the rows lie. Memory grows with rows x dimensions, never with rows squared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s1 import extensions
from s1.curation import coverage, determinantal, facility, farthest
from s1.curation.quota import Room, walk
from s1.errors import UserError

METHODS = ("s1", "k_center", "facility_location", "dpp", "cluster", "random", "longest")
Method = Annotated[str, extensions.one_of("methods", METHODS)]
# More clusters than this cannot be told apart by the eye, nor by a k-means of a few rounds.
MAX_CLUSTERS = 256


@dataclass(frozen=True)
class Pool:
    """The rows to choose from, in canonical order."""

    embeddings: NDArray[np.float32]  # (N, D)
    lengths: NDArray[np.float64] | None  # (N,)
    domains: NDArray[np.int64] | None  # (N,) codes
    quality: NDArray[np.float64] | None  # (N,) not negative
    rng: np.random.Generator
    most: dict[int, int] = field(default_factory=dict[int, int])  # code of a domain -> most rows that it may give
    benchmark: dict[int, float] = field(default_factory=dict[int, float])  # code of a domain -> weight
    benchmark_picks: int = 0

    def room(self) -> Room | None:
        """What the domains may still give; None when nothing is limited."""
        return Room(self.domains, self.most) if self.most and self.domains is not None else None

    def __len__(self) -> int:
        return len(self.embeddings)


Run = Callable[[Pool, int], NDArray[np.int64]]


def select(
    embeddings: ArrayLike,
    size: int,
    method: str,
    lengths: ArrayLike | None = None,
    domains: Sequence[str | None] | ArrayLike | None = None,
    quality: ArrayLike | None = None,
    seed: int = 0,
    *,
    quotas: Mapping[str, int] | None = None,
    benchmark: Mapping[str, float] | None = None,
    benchmark_picks: int = 0,
) -> NDArray[np.int64]:
    """Indices of `size` different rows in the order of their picks; all rows when there are not more.

    embeddings (N, D); lengths (N,): trace lengths; domains (N,): labels; quality (N,): not negative, larger is better.

    - s1: Algorithm 1 of the paper. Rows of the highest quality (when quality is given and differs) first; then a domain
      is drawn uniformly and one of its rows with weight 2^-rank by length. Without domains, clusters take their place.
      The last `benchmark_picks` draw the domain by the weights in `benchmark` (the reference's notebook).
    - k_center: each pick is the row farthest from those before it.
    - facility_location: the picks to which all rows together are most similar (cosine).
    - dpp: greedy MAP of a determinantal point process with an RBF kernel.
    - cluster: k-means, then the same number from each cluster.
    - random, longest: the baselines.
    - module:function: a function of one's own, `(pool: Pool, size: int) -> indices into the pool`, best first.

    `quality` also weighs the gain of k_center, facility_location, dpp and random, and ranks the rows of a cluster. Of a
    domain in `quotas` no more rows are picked than it says, so that there may be fewer than `size`. The picks depend on
    the rows' content and the seed, not on their order; rows that are equal in everything are interchangeable. Raises
    UserError for a method or arrays that do not fit.
    """
    choose = run_of(method)
    points = _points(embeddings)
    if size < 0:
        raise UserError(f"size={size}: must not be negative")
    columns = [_column("lengths", lengths, len(points)), _column("quality", quality, len(points))]
    labels = _labels(domains, len(points))
    if method == "longest" and columns[0] is None:
        raise UserError("method='longest' needs lengths")
    _check_domains(labels, quotas or {}, benchmark_picks)
    if len(points) == 0 or size == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(content_keys(points, columns, labels, seed), kind="stable")
    names = {name: code for code, name in enumerate(sorted(set(labels or ())))}
    pool = Pool(
        points[order],
        *(None if column is None else column[order] for column in columns[:1]),
        domains=None if labels is None else np.array([names[labels[row]] for row in order], dtype=np.int64),
        quality=None if columns[1] is None else columns[1][order],
        rng=generator(seed),
        most={names[name]: most for name, most in (quotas or {}).items() if name in names},
        benchmark={names[name]: weight for name, weight in (benchmark or {}).items() if name in names},
        benchmark_picks=benchmark_picks,
    )
    size = min(size, len(pool))
    picks = choose(pool, size) if method in METHODS else _checked(choose(pool, size), pool, size, method)
    return order[picks].astype(np.int64)


def _check_domains(labels: object, quotas: Mapping[str, int], benchmark_picks: int) -> None:
    if (quotas or benchmark_picks) and labels is None:
        raise UserError("quotas and benchmark_picks need domains")
    for name, most in quotas.items():
        if most < 1:
            raise UserError(f"quotas: {name!r} may give {most} rows, must be 1 or more")


def run_of(method: str) -> Run:
    """The function behind a method. UserError when there is none."""
    if method in METHODS:
        return _RUN[method]
    if not extensions.is_reference(method):
        raise UserError(f"method={method!r}: methods are {', '.join(METHODS)}, or module:function of your own")
    found: Any = extensions.load(method)
    if not callable(found):
        raise UserError(f"{method!r} must be a function of the pool and the number of rows that returns indices")
    return cast(Run, found)


def _checked(picks: ArrayLike, pool: Pool, size: int, method: str) -> NDArray[np.int64]:
    """What a function of the user's has picked. UserError unless these are different rows, not too many."""
    found = np.asarray(picks)
    if found.ndim != 1 or (len(found) and not np.issubdtype(found.dtype, np.integer)):
        raise UserError(f"{method} gave {found.dtype} of shape {found.shape}, must be one whole number for each pick")
    distinct = len(np.unique(found))
    if len(found) > size or distinct < len(found):
        raise UserError(f"{method} gave {len(found)} picks of {distinct} rows, must be at most {size}, each row once")
    outside = found[(found < 0) | (found >= len(pool))]
    if len(outside):
        raise UserError(f"{method} picked row {outside[0]}, the rows are 0 to {len(pool) - 1}")
    return found.astype(np.int64)


def _points(embeddings: ArrayLike) -> NDArray[np.float32]:
    points = np.ascontiguousarray(embeddings, dtype=np.float32)
    if points.size == 0 and points.ndim < 2:
        points = points.reshape(0, 1)
    if points.ndim != 2:
        raise UserError(f"embeddings of shape {points.shape}: must be rows x dimensions")
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise UserError(f"embedding of row {row} has a value that is not finite; compute the embeddings again")
    return points


def _column(name: str, values: ArrayLike | None, num_rows: int) -> NDArray[np.float64] | None:
    if values is None:
        return None
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (num_rows,):
        raise UserError(f"{name} of shape {column.shape}: must be one value for each of the {num_rows} rows")
    if not np.isfinite(column).all() or (name == "quality" and (column < 0).any()):
        raise UserError(f"{name}: every value must be finite and not negative")
    return column


def _labels(domains: Sequence[str | None] | ArrayLike | None, num_rows: int) -> list[str] | None:
    if domains is None:
        return None
    labels = ["" if label is None else str(label) for label in np.asarray(domains, dtype=object).ravel()]
    if len(labels) != num_rows:
        raise UserError(f"{len(labels)} domains: must be one for each of the {num_rows} rows")
    return labels


def content_keys(
    points: NDArray[np.float32], columns: Sequence[NDArray[np.float64] | None], labels: Sequence[str] | None, seed: int
) -> NDArray[np.uint64]:
    """A seeded hash of every row's content, (N,); sorted by it, rows lie in an order that is theirs alone."""
    salt = _salt(seed)
    keys = np.empty(len(points), dtype=np.uint64)
    for row, point in enumerate(points):
        digest = hashlib.blake2b(point.tobytes(), digest_size=8, key=salt)
        for column in columns:
            digest.update(b"" if column is None else column[row].tobytes())
        digest.update(b"" if labels is None else labels[row].encode("utf-8", "surrogatepass"))
        keys[row] = int.from_bytes(digest.digest(), "little")
    return keys


def generator(seed: int) -> np.random.Generator:
    """The random draws of a selection."""
    return np.random.default_rng(list(_salt(seed)))


def _salt(seed: int) -> bytes:
    return hashlib.blake2b(str(seed).encode(), digest_size=16).digest()


def _s1(pool: Pool, size: int) -> NDArray[np.int64]:
    """Algorithm 1 of the paper; its last draws by the benchmarks' mix of domains, as in the reference's notebook."""
    length = pool.lengths if pool.lengths is not None else np.zeros(len(pool))
    domains = pool.domains if pool.domains is not None else _clusters(pool, MAX_CLUSTERS // 4)
    room = pool.room()
    up_front = np.array(_kept_up_front(pool, length), dtype=np.int64)
    picks: list[int] = walk(up_front, size, room).tolist()
    taken = set(picks)
    longest_first = np.argsort(-length, kind="stable")
    remaining: dict[int, list[int]] = {code: [] for code in sorted(set(domains.tolist()))}
    for row in longest_first.tolist():
        if row not in taken:
            remaining[int(domains[row])].append(row)
    names = [code for code, rows in remaining.items() if rows and (room is None or room.has(code))]
    while names and len(picks) < size:
        weights = pool.benchmark if len(picks) >= size - pool.benchmark_picks else {}
        code = _drawn(names, weights, pool.rng)
        rows = remaining[code]
        picks.append(rows.pop(_rank(pool.rng, len(rows))))
        if not rows or (room is not None and len(room.take(picks[-1]))):
            names.remove(code)
    return np.array(picks, dtype=np.int64)


def _drawn(names: list[int], weights: Mapping[int, float], rng: np.random.Generator) -> int:
    """A domain, drawn by weight; uniformly where no domain that is left has any."""
    mass = np.array([weights.get(code, 0.0) for code in names])
    if not mass.any():
        return names[int(rng.integers(len(names)))]
    return names[int(rng.choice(len(names), p=mass / mass.sum()))]


def _kept_up_front(pool: Pool, length: NDArray[np.float64]) -> list[int]:
    """Rows of the highest quality, longest first; none when all rows are alike."""
    if pool.quality is None or pool.quality.min() == pool.quality.max():
        return []
    best = np.flatnonzero(pool.quality == pool.quality.max())
    return best[np.argsort(-length[best], kind="stable")].tolist()


def _rank(rng: np.random.Generator, num_rows: int) -> int:
    """A rank below `num_rows`, drawn with weight 2^-rank."""
    mass = 1.0 - 2.0 ** -min(num_rows, 1000)
    return min(int(-np.log2(1.0 - rng.random() * mass)), num_rows - 1)


def _random(pool: Pool, size: int) -> NDArray[np.int64]:
    if pool.quality is None or not pool.quality.any():
        return walk(pool.rng.permutation(len(pool)), size, pool.room())
    # Exponential races: the order of draws without replacement, weighted by quality.
    with np.errstate(divide="ignore"):
        times = pool.rng.exponential(size=len(pool)) / pool.quality
    return walk(np.argsort(times, kind="stable"), size, pool.room())


def _longest(pool: Pool, size: int) -> NDArray[np.int64]:
    assert pool.lengths is not None
    return walk(np.argsort(-pool.lengths, kind="stable"), size, pool.room())


def _clusters(pool: Pool, most: int) -> NDArray[np.int64]:
    """Cluster of every row; as many clusters as their number of rows supports."""
    count = int(np.clip(len(pool) // 16, 1, most))
    return coverage.k_means(pool.embeddings, count, pool.rng).labels


def _cluster(pool: Pool, size: int) -> NDArray[np.int64]:
    """One row of every cluster after the other, largest cluster first; within one the best, then the most central."""
    count = int(np.clip(min(size, len(pool) // 4), 1, MAX_CLUSTERS))
    found = coverage.k_means(pool.embeddings, count, pool.rng)
    quality = pool.quality if pool.quality is not None else np.zeros(len(pool))
    order = np.lexsort((found.distances, -quality, found.labels))
    sizes = np.bincount(found.labels, minlength=count)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(pool), dtype=np.int64)  # of every row within its cluster
    place[order] = np.arange(len(pool)) - starts[found.labels[order]]
    return walk(np.lexsort((found.labels, -sizes[found.labels], place)), size, pool.room())


def _k_center(pool: Pool, size: int) -> NDArray[np.int64]:
    first = first_rank(pool.rng, len(pool))
    return farthest.k_center(pool.embeddings, size, first, pool.quality, pool.domains, pool.most)


def first_rank(rng: np.random.Generator, num_rows: int) -> int:
    """Place of the first pick of k-center in the canonical order."""
    return int(rng.integers(num_rows))


def _facility_location(pool: Pool, size: int) -> NDArray[np.int64]:
    return facility.facility_location(pool.embeddings, size, pool.quality, pool.room())


def _dpp(pool: Pool, size: int) -> NDArray[np.int64]:
    return determinantal.greedy_map(pool.embeddings, size, pool.quality, pool.room())


_RUN: dict[str, Run] = {
    "s1": _s1,
    "k_center": _k_center,
    "facility_location": _facility_location,
    "dpp": _dpp,
    "cluster": _cluster,
    "random": _random,
    "longest": _longest,
}
