"""The solvers' attempts of featurize: on Ray Data, graded block by block, written down as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from actors.grader import grade_attempts
from actors.solver import Solver, SolverOptions
from jobs.streams import blocks, rows
from s1.curation.difficulty import solved
from s1.journal import Journal
from s1.vllm_processes import MAX_RESTARTS

Row = dict[str, Any]
Attempts = list[tuple[str | None, bool | None]]  # text and verdict of each


def attempt_questions(options: SolverOptions, questions: pa.Table, journal: Journal) -> Iterator[Row]:
    """Attempts of all solvers, one solver after the other: question_id, solver, solver_attempt and solver_correct.

    What `journal` holds comes from there; what is new is in it before it is yielded, all of a question's at once.
    """
    recorded = {(row["solver"], row["question_id"]): row["attempts"] for row in journal.rows}
    ids = questions["question_id"].to_pylist()
    for model in options.models:
        found = {key: recorded[model, key] for key in ids if (model, key) in recorded}
        yield from (row for key, its in found.items() for row in _attempt_rows(model, key, its))
        left = questions.filter(pa.array([key not in found for key in ids], pa.bool_()))
        if found:
            print(f"featurize: solver {model}: {len(found)} recorded, {left.num_rows} to ask", file=sys.stderr)
        for key, its in by_question(options, attempts(options, model, left)) if left.num_rows else ():
            journal.add({"solver": model, "question_id": key, "attempts": its})
            yield from _attempt_rows(model, key, its)


def _attempt_rows(model: str, key: str, its: Iterable[Sequence[Any]]) -> Iterator[Row]:
    for text, verdict in its:
        yield {"question_id": key, "solver": model, "solver_attempt": text, "solver_correct": verdict}


def by_question(options: SolverOptions, attempted: Iterable[Row]) -> Iterator[tuple[str, Attempts]]:
    """question_id with text and verdict of all attempts at it, as soon as they are there; one without a text when
    nothing was asked.
    """
    waiting: dict[str, Attempts] = {}
    for row in attempted:
        key, text = row["question_id"], row["solver_attempt"]
        waiting.setdefault(key, []).append((text, row["solver_correct"]))
        if text is None or len(waiting[key]) == options.attempts:
            yield key, waiting.pop(key)


def summed_up(attempted: Iterable[Row]) -> dict[str, Row]:
    """Columns of FEATURES about the solvers by question id: the attempt that was right, else the last one."""
    best: dict[str, Row] = {}
    verdicts: dict[str, list[bool | None]] = {}
    for row in attempted:
        key = row["question_id"]
        if not any(verdicts.setdefault(key, [])):
            best[key] = {name: row[name] for name in ("solver", "solver_attempt")}
        verdicts[key].append(row["solver_correct"])
    return {key: {**values, **verdict_columns(verdicts[key])} for key, values in best.items()}


def verdict_columns(verdicts: Sequence[bool | None]) -> Row:
    """Columns of FEATURES that sum up the attempts of all solvers at one question."""
    known = [verdict for verdict in verdicts if verdict is not None]
    return {"solver_correct": solved(verdicts), "solver_attempts": len(known), "solver_solved": sum(known)}


def attempts(options: SolverOptions, model: str, questions: pa.Table) -> Iterator[Row]:
    """question_id, solver_attempt and solver_correct of one solver."""
    import ray

    attempted = blocks(questions, options.batch_rows).map_batches(
        Solver,
        fn_constructor_args=(model, options),
        batch_size=options.batch_rows,
        batch_format="pyarrow",
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        compute=ray.data.ActorPoolStrategy(size=options.num_workers),
        max_restarts=MAX_RESTARTS,
        runtime_env={"env_vars": options.environment()},
    )
    # Block by block: what is finished does not wait for others to fill a batch.
    graded = attempted.map_batches(grade_attempts, batch_size=None, batch_format="pyarrow", num_cpus=0.25)
    return rows(graded, f"featurize: solver {model}", questions.num_rows)
