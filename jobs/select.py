"""Choose what the student learns from: FEATURES becomes SELECTION.

    python -m jobs.select --preset laptop --size 500 --method facility_location

Quality, then difficulty (paper, section 2.2), then near-duplicates, then diversity. Every row that goes is counted
under the reason why. Where fewer rows are left than were asked for, all of them are taken.
"""

from __future__ import annotations

import fnmatch
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from jobs.runner import Context, Job, Outcome, command
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.config import Config
from s1.curation import coverage, difficulty, diversity
from s1.errors import UserError

COLUMNS = [
    *("question_id", "source", "domain", "quality_issues", "trace_correct", "solver_correct", "trace_tokens"),
    "embedding",
]
BATCH_ROWS = 4096


class SelectOptions(Config):
    """What is kept, and how it is chosen."""

    size: PositiveInt = Field(default=1000, description="Rows to choose; all that are left when there are fewer.")
    method: diversity.Method = Field(default="facility_location", description="How the rows are chosen.")
    seed: int = Field(default=0, description="Seed of the choice; the order of the rows does not matter.")
    ignore_issues: tuple[str, ...] = Field(default=(), description="Quality issues that are no reason to drop a row.")
    drop_solved: bool = Field(default=True, description="Drop what a solver solves.")
    drop_wrong: bool = Field(default=True, description="Drop traces whose answer disagrees with the reference.")
    max_trace_tokens: PositiveInt | None = Field(
        default=None, description="Drop longer traces: training never cuts one."
    )
    near_duplicates: float | None = Field(
        default=None, gt=0, le=1, description="Drop a question whose cosine similarity to one that stays is this large."
    )
    keep_first: dict[str, int] = Field(
        default={},
        description="Patterns of source or domain, with the least trace tokens: such rows with a right answer are "
        "picked before all others (method s1).",
    )


@dataclass(frozen=True)
class Row:
    """What decides about one row of FEATURES."""

    question_id: str
    source: str
    domain: str | None
    quality_issues: list[str]
    trace_correct: bool | None
    solver_correct: bool | None
    trace_tokens: int


def describe(options: SelectOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    """How many of how many."""
    features = manifests.get("features")
    count = "?" if features is None else features.rows_out
    return [f"chooses: {options.size} of {count} rows by {options.method}"]


def run(options: SelectOptions, context: Context) -> Outcome:
    """quality → difficulty → near-duplicates → diversity."""
    features = context.inputs["features"]
    table = features.read(schema.FEATURES, columns=COLUMNS)
    rows = [Row(**values) for values in table.drop_columns(["embedding"]).to_pylist()]
    funnel = {"traces": len(rows)}
    dropped: Counter[str] = Counter()

    left = sift(range(len(rows)), dropped, lambda at: quality_reason(rows[at], options))
    funnel["quality"] = len(left)
    left = sift(left, dropped, lambda at: difficulty_reason(rows[at], options))
    funnel["difficulty"] = len(left)
    if not left:
        raise UserError(_nothing_left(features, dropped))
    points = embeddings(table, left, features)
    if options.near_duplicates is not None:
        stays = ~_near_duplicates(points, options.near_duplicates, options.seed)
        dropped["near_duplicate"] += int((~stays).sum())
        points, left = points[stays], [at for at, here in zip(left, stays, strict=True) if here]
        funnel["distinct"] = len(left)

    if options.size > len(left):
        print(f"select: {options.size} rows asked for, {len(left)} left: all of them are taken", file=sys.stderr)
    picks = choose(options, [rows[at] for at in left], points)
    chosen = [left[pick] for pick in picks]
    dropped["not_picked"] += len(left) - len(chosen)
    funnel["selected"] = len(chosen)
    write(context, features, [rows[at].question_id for at in chosen])
    facts = {"funnel": funnel, "asked_for": options.size, **_describe_choice([rows[at] for at in chosen])}
    return Outcome(len(rows), len(chosen), {reason: count for reason, count in dropped.items() if count}, facts=facts)


def sift(left: Sequence[int] | range, dropped: Counter[str], reason: Any) -> list[int]:
    """Rows without a reason to go; the others are counted under theirs."""
    stays: list[int] = []
    for at in left:
        why = reason(at)
        if why is None:
            stays.append(at)
        else:
            dropped[why] += 1
    return stays


def quality_reason(row: Row, options: SelectOptions) -> str | None:
    """The first quality issue that counts."""
    issues = [name for name in row.quality_issues if name not in options.ignore_issues]
    if issues:
        return issues[0]
    if options.max_trace_tokens is not None and row.trace_tokens > options.max_trace_tokens:
        return "too_long"
    return None


def difficulty_reason(row: Row, options: SelectOptions) -> str | None:
    """`solved`, `trace_wrong` or None."""
    return difficulty.reason_to_drop(
        row.solver_correct, row.trace_correct, drop_solved=options.drop_solved, drop_wrong=options.drop_wrong
    )


def embeddings(table: pa.Table, left: Sequence[int], features: Artifact) -> NDArray[np.float32]:
    """Embeddings of the rows that are left, (N, D). UserError when one is missing or of another length."""
    column = table["embedding"].take(pa.array(left, pa.int64())).combine_chunks()
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or None in lengths:
        raise UserError(f"{features.uri}: embeddings are missing or of different lengths; run featurize again")
    return np.asarray(column.flatten(), dtype=np.float32).reshape(len(left), -1)


def _near_duplicates(points: NDArray[np.float32], threshold: float, seed: int) -> NDArray[np.bool_]:
    """Near-duplicates in an order that does not depend on how the rows lie."""
    order = diversity.select(points, len(points), "random", seed=seed)
    dropped = np.zeros(len(points), dtype=bool)
    dropped[order] = coverage.near_duplicates(points[order], threshold)
    return dropped


def choose(options: SelectOptions, rows: Sequence[Row], points: NDArray[np.float32]) -> list[int]:
    """Picks among `rows`, in order."""
    quality = [1.0 if is_kept_first(row, options.keep_first) else 0.0 for row in rows]
    return diversity.select(
        points,
        options.size,
        options.method,
        lengths=[row.trace_tokens for row in rows],
        domains=[row.domain for row in rows] if any(row.domain for row in rows) else None,
        quality=quality if options.method == "s1" else None,
        seed=options.seed,
    ).tolist()


def is_kept_first(row: Row, patterns: Mapping[str, int]) -> bool:
    """Whether the row is one of those that Algorithm 1 keeps up front."""
    names = [name.lower() for name in (row.source, row.domain) if name]
    return row.trace_correct is True and any(
        row.trace_tokens > least and any(fnmatch.fnmatchcase(name, pattern.lower()) for name in names)
        for pattern, least in patterns.items()
    )


def write(context: Context, features: Artifact, picks: Sequence[str]) -> None:
    """SELECTION in the order of the picks; only the chosen rows are ever in memory."""
    order = {key: at for at, key in enumerate(picks)}
    chosen: list[dict[str, object]] = []
    for path in features.parquet_paths(schema.FEATURES):
        with features.fs.open_input_file(path) as source:
            names = [name for name in schema.SELECTION.names if name != "pick_order"]
            for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS, columns=names):
                wanted = [at for at, key in enumerate(batch["question_id"].to_pylist()) if key in order]
                chosen += batch.take(pa.array(wanted, pa.int64())).to_pylist()
    for row in chosen:
        row["pick_order"] = order[str(row["question_id"])]
    chosen.sort(key=lambda row: order[str(row["question_id"])])
    context.staging.write_table(schema.to_table(chosen, schema.SELECTION))


def _nothing_left(features: Artifact, dropped: Counter[str]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    return (
        f"{features.uri}: no row is left to choose from ({reasons}); collect more questions, or allow more with "
        "--ignore-issues, --no-drop-solved or --no-drop-wrong"
    )


def _describe_choice(chosen: Sequence[Row]) -> dict[str, Any]:
    return {
        "domains": dict(Counter(row.domain or "unknown" for row in chosen).most_common()),
        "trace_tokens_total": sum(row.trace_tokens for row in chosen),
    }


JOB = Job(
    name="select",
    summary=(__doc__ or "").strip(),
    options=SelectOptions,
    inputs=("features",),
    output="selection",
    run=run,
    describe=describe,
)

if __name__ == "__main__":
    command(JOB)
