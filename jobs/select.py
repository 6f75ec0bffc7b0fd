"""Choose the examples to train on: FEATURES becomes SELECTION.

    python -m jobs.select --preset laptop --size 500 --method facility_location

Filters by quality, then difficulty (paper, section 2.2), then near-duplicates, then picks for diversity. Every dropped
row is counted under its reason. If fewer rows are left than requested, all of them are taken.
"""

from __future__ import annotations

import fnmatch
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from actors import selector
from jobs import capacity, feature_rows
from jobs.feature_rows import Row
from jobs.ray_session import ray_session
from jobs.runner import Context, Job, Outcome, command
from s1 import extensions, schema
from s1.artifacts import Artifact, Manifest
from s1.config import Config
from s1.curation import coverage, difficulty, diversity
from s1.errors import UserError


class SelectOptions(Config):
    """What is kept, and how it is chosen."""

    size: PositiveInt = Field(default=1000, description="Number of rows to choose; if fewer are left, all of them.")
    method: diversity.Method = Field(
        default="facility_location",
        description=f"How the rows are chosen: {', '.join(diversity.METHODS)}, or module:function of your own.",
    )
    seed: int = Field(default=0, description="Seed of the choice; the order of the rows does not matter.")
    ignore_issues: tuple[str, ...] = Field(default=(), description="Quality issues for which a row is not dropped.")
    drop_solved: bool = Field(default=True, description="Drop questions that a solver solves.")
    drop_wrong: bool = Field(default=True, description="Drop traces whose answer disagrees with the reference.")
    max_trace_tokens: PositiveInt | None = Field(
        default=None, description="Drop traces longer than this; training never cuts one."
    )
    near_duplicates: float | None = Field(
        default=None, gt=0, le=1, description="Drop a question whose cosine similarity to a kept one is at least this."
    )
    keep_first: dict[str, int] = Field(
        default={},
        description="Patterns of source or domain, each with a number of thinking tokens: rows with more and a right "
        "answer are picked before all others (method s1).",
    )
    quality: Literal["length", "difficulty"] = Field(
        default="length", description="What makes a row good: a long trace, or failed attempts of solvers."
    )
    quality_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of quality relative to diversity: gains are multiplied by quality to this power.",
    )
    quotas: dict[str, PositiveInt] = Field(
        default={},
        description="Patterns of domains, and the most rows of each matching domain; the first match counts.",
    )
    benchmark_picks: NonNegativeInt = Field(
        default=0,
        description="Number of last picks of method s1 that draw domains by the test sets' mix, not uniformly.",
    )
    benchmark_domains: dict[str, float] = Field(
        default={}, description="Weights of the domains in that mix; by default as found by featurize."
    )
    shards: PositiveInt = Field(
        default=1, description="Ray actors that share the rows (k_center, facility_location); 1: no actors."
    )
    shard_cpus: float = Field(default=0.5, gt=0, description="CPUs that Ray sets aside for each of them.")


def check(options: SelectOptions) -> None:
    """Raise UserError for options that do not go together, and for a method that there is not."""
    diversity.run_of(options.method)
    if options.quality_weight and options.method in ("s1", "longest"):
        raise UserError(
            f"quality_weight={options.quality_weight}: method {options.method} ranks by length alone; leave it out, or "
            "choose another method"
        )
    if options.benchmark_picks and options.method != "s1":
        raise UserError(f"benchmark_picks={options.benchmark_picks}: only method s1 draws domains")
    if options.shards > 1 and options.method not in selector.METHODS:
        raise UserError(f"shards={options.shards}: method must be one of {', '.join(selector.METHODS)}")
    if options.shards > 1 and options.near_duplicates is not None:
        raise UserError("near_duplicates compares all rows with all: leave it out, or use shards=1")


def describe(options: SelectOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    """How many of how many."""
    features = manifests.get("features")
    count = "?" if features is None else features.rows_out
    return [f"chooses: {options.size} of {count} rows by {options.method}"]


def run(options: SelectOptions, context: Context) -> Outcome:
    """quality → difficulty → near-duplicates → diversity."""
    features = context.inputs["features"]
    rows = feature_rows.rows(features)
    funnel = {"traces": len(rows)}
    dropped: Counter[str] = Counter()

    left = sift(range(len(rows)), dropped, lambda at: quality_reason(rows[at], options))
    funnel["quality"] = len(left)
    left = sift(left, dropped, lambda at: difficulty_reason(rows[at], options))
    funnel["difficulty"] = len(left)
    if not left:
        raise UserError(_nothing_left(features, dropped))
    if options.shards > 1:
        chosen = choose_sharded(options, features, rows, left)
    else:
        points = feature_rows.embeddings(features, left)
        if options.near_duplicates is not None:
            stays = ~_near_duplicates(points, options.near_duplicates, options.seed)
            dropped["near_duplicate"] += int((~stays).sum())
            points, left = points[stays], [at for at, here in zip(left, stays, strict=True) if here]
            funnel["distinct"] = len(left)
        chosen = [left[pick] for pick in choose(options, [rows[at] for at in left], points, features)]
    if len(chosen) < options.size:
        print(f"select: {options.size} rows asked for, {len(chosen)} of {len(left)} left are taken", file=sys.stderr)
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


def _near_duplicates(points: NDArray[np.float32], threshold: float, seed: int) -> NDArray[np.bool_]:
    """Near-duplicates in an order that does not depend on how the rows lie."""
    order = diversity.select(points, len(points), "random", seed=seed)
    dropped = np.zeros(len(points), dtype=bool)
    dropped[order] = coverage.near_duplicates(points[order], threshold)
    return dropped


def choose(options: SelectOptions, rows: Sequence[Row], points: NDArray[np.float32], features: Artifact) -> list[int]:
    """Picks among `rows`, in order."""
    return diversity.select(
        points,
        options.size,
        options.method,
        # Algorithm 1 goes by the thinking alone.
        lengths=[row.thinking_tokens if options.method == "s1" else row.trace_tokens for row in rows],
        domains=domains(rows),
        quality=quality(options, rows),
        seed=options.seed,
        quotas=quotas(options, rows),
        benchmark=benchmark(options, features),
        benchmark_picks=options.benchmark_picks,
    ).tolist()


def choose_sharded(options: SelectOptions, features: Artifact, rows: Sequence[Row], left: Sequence[int]) -> list[int]:
    """Rows of the table, in the order of the picks; the embeddings are only ever read by the shards."""
    few = [rows[at] for at in left]
    keep = np.zeros(len(rows), dtype=bool)
    keep[left] = True
    lengths = np.array([row.trace_tokens for row in rows], dtype=np.float64)
    weights, names = quality(options, few), domains(few)
    spread = None if weights is None else np.zeros(len(rows))
    if spread is not None:
        spread[left] = weights
    labels = None if names is None else [row.domain or "" for row in rows]
    table = selector.Table(keep, lengths, spread, labels)
    with ray_session(*capacity.of_select(options)):
        return selector.select(
            options.method,
            feature_rows.files(features),
            table,
            options.size,
            options.seed,
            quotas(options, few),
            options.shards,
            options.shard_cpus,
        )


def domains(rows: Sequence[Row]) -> list[str | None] | None:
    """Domain of every row; None when no row has one."""
    return [row.domain for row in rows] if any(row.domain for row in rows) else None


def quality(options: SelectOptions, rows: Sequence[Row]) -> NDArray[np.float64] | None:
    """What multiplies the gain of every row; None when all count alike."""
    if options.method == "s1":
        return np.array([1.0 if is_kept_first(row, options.keep_first) else 0.0 for row in rows])
    if not options.quality_weight:
        return None
    if options.quality == "length":
        scores = difficulty.percentiles([row.trace_tokens for row in rows])
    else:
        scores = np.array([difficulty.failure_rate(row.solver_attempts or 0, row.solver_solved or 0) for row in rows])
    return scores**options.quality_weight


def quotas(options: SelectOptions, rows: Sequence[Row]) -> dict[str, int]:
    """The most rows that each domain of `rows` may give. UserError when a pattern matches none."""
    found: dict[str, int] = {}
    names = sorted({row.domain or "" for row in rows})
    for pattern, most in options.quotas.items():
        matching = [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
        if not matching:
            known = ", ".join(name for name in names[:10] if name) or "none"
            raise UserError(f"quotas: no domain matches {pattern!r}; the domains are {known}")
        for name in matching:
            found.setdefault(name, most)
    return found


def benchmark(options: SelectOptions, features: Artifact) -> dict[str, float]:
    """Weights of domains for the last picks of method s1."""
    if not options.benchmark_picks or options.benchmark_domains:
        return options.benchmark_domains
    manifest = features.manifest()
    mix = manifest.facts.get("test_domains") if manifest is not None else None
    if not mix:
        raise UserError(
            f"benchmark_picks={options.benchmark_picks}: {features.uri} does not know the domains of the test sets; "
            "give --benchmark-domains, or run featurize with test sets and --domains.method nearest or llm"
        )
    return mix


def is_kept_first(row: Row, patterns: Mapping[str, int]) -> bool:
    """Whether the row is one of those that Algorithm 1 keeps up front."""
    names = [name.lower() for name in (row.source, row.domain) if name]
    return row.trace_correct is True and any(
        row.thinking_tokens > least and any(fnmatch.fnmatchcase(name, pattern.lower()) for name in names)
        for pattern, least in patterns.items()
    )


def write(context: Context, features: Artifact, picks: Sequence[str]) -> None:
    """SELECTION in the order of the picks; only the chosen rows are ever in memory."""
    order = {key: at for at, key in enumerate(picks)}
    chosen: list[dict[str, object]] = []
    names = [name for name in schema.SELECTION.names if name != "pick_order"]
    for batch in features.batches(schema.FEATURES, names):
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
    check=check,
    describe=describe,
    how=("shard_cpus",),  # facility location picks others on another number of shards
    outside=lambda options: extensions.state(options.method) if extensions.is_reference(options.method) else None,
)

if __name__ == "__main__":
    command(JOB)
