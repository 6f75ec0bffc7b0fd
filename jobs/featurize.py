"""Measure every trace for the selection: TRACES becomes FEATURES.

    python -m jobs.featurize --preset laptop
    python -m jobs.featurize --test-sets data/math500.jsonl data/aime24.jsonl

On Ray Data, one after the other: faults of question and trace, the solver's attempt and its grade, the embedding. The
solver is only asked about rows without a fault, and its graded attempts are written down as they come: a run that was
killed asks for those that are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from actors import embedder, solver
from actors.embedder import Embedder, EmbedderOptions
from actors.grader import CONTAMINATED, TestItems, TraceGrader, ruled_out
from actors.solver import SolverOptions
from jobs import asking, capacity, domains, judging
from jobs.asking import AskOptions
from jobs.domains import DomainOptions
from jobs.judging import JudgeOptions
from jobs.leftovers import name_leftovers
from jobs.ray_session import ray_session
from jobs.runner import Context, Job, Outcome, command
from jobs.solving import attempt_questions, summed_up
from jobs.streams import blocks, rows, tables
from s1 import models, schema, workload
from s1.artifacts import Artifact, Manifest, join
from s1.config import Config, under
from s1.errors import UserError
from s1.journal import Journal
from s1.sources import mapping, records
from s1.teachers import service

ROWS_PER_FILE = 4_096
TEXT_COLUMNS = ["question_id", "question", "answer", "source", "metadata", "thinking", "attempt", "finish_reason"]
SOLVER_COLUMNS = ["question_id", "question", "answer", "source", "metadata"]
Row = dict[str, Any]
HOW = (
    *("grader_workers", "grader_cpus", *under("solver", solver.HOW), *under("embedder", embedder.HOW)),
    *(*under("judge", asking.HOW), *under("domains.llm", asking.HOW)),
)


class FeaturizeOptions(Config):
    """What is measured, and with which models."""

    student: str = Field(
        default="embedded:smollm2-135m-instruct",
        description="Model whose tokenizer counts a trace's tokens; left out: the one that is trained, train.model.",
    )
    solver: SolverOptions = Field(default=SolverOptions(), description="Models that attempt the questions.")
    embedder: EmbedderOptions = Field(default=EmbedderOptions(), description="Encoder of the questions.")
    test_sets: tuple[str, ...] = Field(
        default=(), description="Questions to keep out: files, folders, globs or hub:owner/name[:split]."
    )
    ngram: PositiveInt = Field(
        default=8, description="Number of consecutive words that a question must not share with a test question."
    )
    normalise: bool = Field(
        default=False, description="Compare words, numbers and symbols, ignoring LaTeX spacing and Unicode variants."
    )
    coverage: float = Field(
        default=0.0, ge=0, le=1, description="Share of the shorter text that the shared words must make up to count."
    )
    domains: DomainOptions = Field(default=DomainOptions(), description="Where the column domain comes from.")
    judge: JudgeOptions = Field(default=JudgeOptions(), description="A model that judges what no rule decides.")
    grader_workers: PositiveInt = Field(default=1, description="Workers that judge the traces.")
    grader_cpus: float = Field(default=0.5, gt=0, description="CPUs that Ray sets aside for each of them.")


def check(options: FeaturizeOptions) -> None:
    """Raise UserError for models and files that are not there."""
    for model in (options.student, options.embedder.model, *options.solver.models):
        models.check(model)
    if "{question}" not in options.solver.prompt:
        raise UserError(f"solver.prompt={options.solver.prompt!r}: must contain {{question}}")
    if options.solver.max_tokens >= options.solver.max_model_len:
        raise UserError(
            f"solver.max_tokens={options.solver.max_tokens}: leaves no room for a prompt within "
            f"max_model_len={options.solver.max_model_len}"
        )
    if options.solver.attempts > 1 and not options.solver.temperature:
        raise UserError(
            f"solver.attempts={options.solver.attempts}: at temperature 0 all are the same; give --solver.temperature"
        )
    if options.solver.models and not options.solver.num_gpus:  # GPUs may be where the solvers run, and not here
        options.solver.check_device()
    for name, asked in asked_models(options).items():
        asking.check(asked, name)
    for path in options.test_sets:
        records.check(path)


def asked_models(options: FeaturizeOptions) -> dict[str, AskOptions]:
    """The models behind endpoints that are asked, by the name of their options."""
    named: dict[str, AskOptions] = {}
    if options.judge.enabled:
        named["judge.openai"] = options.judge
    if options.domains.method == "llm":
        named["domains.llm.openai"] = options.domains.llm
    return named


def describe(options: FeaturizeOptions, manifests: Mapping[str, Manifest | None]) -> Sequence[str]:
    """How much is to be done, with which models, and what those that are paid may cost."""
    traces = manifests.get("traces")
    count = None if traces is None else traces.rows_out
    known, solvers = "?" if count is None else count, ", ".join(options.solver.models) or "none"
    lines = [
        f"rows: {known}; solvers: {solvers}; encoder: {options.embedder.model}; test sets: {len(options.test_sets)}"
    ]
    if count is not None:
        lines += generates(options, count)
    if options.judge.enabled:
        each = 1 + len(options.solver.models) * options.solver.attempts  # the trace and all attempts
        lines.append(service.estimate(options.judge.openai, "judge", None if count is None else each * count))
    if options.domains.method == "llm":
        lines.append(service.estimate(options.domains.llm.openai, "domains.llm", count))
    return lines


def generates(options: FeaturizeOptions, count: int) -> list[str]:
    """What the solvers generate for `count` questions, to read; nothing without solvers."""
    if not options.solver.models:
        return []
    line = f"generates for {count:,} questions: {workload_of(options, count)}"
    if options.solver.max_tokens > workload.ANSWER_TOKENS:
        line += f" (expected as in the paper: {workload.ANSWER_TOKENS} tokens of an answer)"
    return [line]


def workload_of(options: FeaturizeOptions, count: int) -> workload.Workload:
    """What the solvers generate for `count` questions; those with a fault are not asked."""
    solver = options.solver
    return workload.of_attempts(count * len(solver.models) * solver.attempts, solver.max_tokens)


def run(options: FeaturizeOptions, context: Context) -> Outcome:
    """Measure, then write the rows of TRACES with what was measured, in their order."""
    traces = context.inputs["traces"]
    ids = unique_ids(traces)
    tests = test_items(options)
    ledger_uri = join(context.run_dir, "_ledger")
    for name, asked_model in asked_models(options).items():
        asking.check_reached(asked_model, name, ledger_uri)
    found: Row = {}
    name_leftovers("featurize", context.scratch)
    with Journal(context.scratch) as journal, ray_session(*capacity.of_featurize(options)):
        features = grade_traces(options, traces, len(ids), tests)
        questions = traces.read(schema.TRACES, columns=SOLVER_COLUMNS)
        solutions = judging.references(context.inputs["questions"]) if options.judge.enabled else {}
        if options.judge.enabled:
            found["judged_traces"] = judging.judge_traces(options.judge, traces, features, solutions, ledger_uri)
        asked_solvers = without_faults(questions, features)
        attempted: Iterable[Row] = attempt_questions(options.solver, asked_solvers, journal)
        if options.judge.enabled:
            attempted = list(attempted)
            spent_usd = found["judged_traces"]["cost_usd"]
            found["judged_attempts"] = judging.judge_attempts(
                options.judge, attempted, questions, solutions, ledger_uri, spent_usd
            )
        for key, values in summed_up(attempted).items():
            features[key].update(values)
        for key, vector in embed(options.embedder, questions.select(["question_id", "question"])):
            features[key]["embedding"] = vector
        asked = dict(zip(ids, questions["question"].to_pylist(), strict=True))
        encode = partial(encoded, options.embedder)
        found |= domains.label(options.domains, features, asked, tests.questions, encode, ledger_uri)
    found |= facts(options, features, len(tests.names))
    paid = [value["cost_usd"] for value in found.values() if isinstance(value, dict) and "cost_usd" in value]
    write(context, traces, features)
    return Outcome(len(ids), len(ids), cost_usd=round(sum(paid), 6), facts=found)


def unique_ids(traces: Artifact) -> list[str]:
    """Keys of the table, in order. UserError when one is there twice, or when a file cannot be read to its end."""
    ids: list[str] = traces.read(schema.TRACES, columns=["question_id"])["question_id"].to_pylist()
    if not ids:
        raise UserError(f"{traces.uri}: has no rows; distill more questions")
    schema.check_keys(ids, traces.uri)
    for _ in traces.batches(schema.TRACES):
        pass  # a damaged file is told by its name, before a worker meets it
    return ids


def test_items(options: FeaturizeOptions) -> TestItems:
    """All questions of the test sets; a name is the file or data set, with folders where two share one, and the row."""
    places: list[tuple[str, int]] = []
    questions: list[str] = []
    for path in options.test_sets:
        for record in records.read(path):
            places.append((record.file, record.row))
            questions.append(mapping.to_question(record, mapping.Fields(), path).question)
    short = {file: file.rpartition("/")[2] for file, _ in places}
    times = Counter(short.values())
    names = [f"{short[file] if times[short[file]] == 1 else file}:{row}" for file, row in places]
    return TestItems(names, questions, options.ngram, options.normalise, options.coverage)


def grade_traces(options: FeaturizeOptions, traces: Artifact, num_rows: int, tests: TestItems) -> dict[str, Row]:
    """What is wrong with a trace, whether it is right and how long it is, by question id."""
    import ray

    # The long texts go from the files to the workers; they never pass through here.
    texts = ray.data.read_parquet(
        traces.parquet_paths(schema.TRACES),
        filesystem=traces.fs,
        partitioning=None,  # a folder named a=b is no column
        override_num_blocks=max(1, min(num_rows // 64, 8 * options.grader_workers)),
    ).select_columns(TEXT_COLUMNS)
    graded = texts.map_batches(
        TraceGrader,
        fn_constructor_args=(options.student, tests),
        batch_size=64,
        batch_format="pyarrow",
        num_cpus=options.grader_cpus,
        compute=ray.data.ActorPoolStrategy(size=options.grader_workers),
    )
    return {row.pop("question_id"): row for row in rows(graded, "featurize: traces", num_rows)}


def without_faults(questions: pa.Table, features: Mapping[str, Row]) -> pa.Table:
    """Rows of `questions` that nothing rules out yet."""
    stays = [not ruled_out(features[key]["quality_issues"]) for key in questions["question_id"].to_pylist()]
    return questions.filter(pa.array(stays, pa.bool_()))


def embed(
    options: EmbedderOptions, questions: pa.Table, label: str = "embeddings"
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """question_id and embedding; as arrays, because lists of numbers take eight times the memory."""
    import ray

    embedded = blocks(questions, options.batch_rows).map_batches(
        Embedder,
        fn_constructor_args=(options,),
        batch_size=options.batch_rows,
        batch_format="pyarrow",
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        compute=ray.data.ActorPoolStrategy(size=options.num_workers),
        runtime_env={"env_vars": options.environment()},
    )
    for table in tables(embedded, f"featurize: {label}", questions.num_rows):
        vectors = np.asarray(table["embedding"].combine_chunks().flatten(), dtype=np.float32)
        yield from zip(table["question_id"].to_pylist(), vectors.reshape(table.num_rows, -1), strict=True)


def encoded(options: EmbedderOptions, texts: Sequence[str], label: str) -> NDArray[np.float32]:
    """Embeddings of texts, (N, D), in their order."""
    table = pa.table({"question_id": [str(at) for at in range(len(texts))], "question": list(texts)})
    vectors = {int(key): vector for key, vector in embed(options, table, label)}
    return np.stack([vectors[at] for at in range(len(texts))])


def write(context: Context, traces: Artifact, features: Mapping[str, Row]) -> None:
    """FEATURES, file by file: the traces are never in memory as a whole."""
    for number, batch in enumerate(traces.batches(schema.TRACES, rows=ROWS_PER_FILE)):
        merged = [_merged(row, features) for row in batch.to_pylist()]
        context.staging.write_table(schema.to_table(merged, schema.FEATURES), f"part-{number:05d}.parquet")


def _merged(trace: Row, features: Mapping[str, Row]) -> Row:
    kept = {name: value for name, value in trace.items() if name in schema.FEATURES.names}
    return {**kept, **features[trace["question_id"]]}


def facts(options: FeaturizeOptions, features: Mapping[str, Row], num_test_questions: int) -> dict[str, Any]:
    """What the report tells about the features."""
    tokens = sorted(row["trace_tokens"] for row in features.values())
    verdicts = [row.get("solver_correct") for row in features.values()]
    return {
        "issues": dict(Counter(name for row in features.values() for name in row["quality_issues"]).most_common()),
        "contaminated": sum(CONTAMINATED in row["quality_issues"] for row in features.values()),
        "test_questions_touched": touched_items(features),
        "num_test_questions": num_test_questions,
        "trace_wrong": sum(row["trace_correct"] is False for row in features.values()),
        "solvers": list(options.solver.models),
        "solver_attempts": sum(row.get("solver_attempts") or 0 for row in features.values()),
        "solver_asked": sum("solver_attempt" in row for row in features.values()),
        "solved": sum(verdict is True for verdict in verdicts),
        "trace_tokens_median": tokens[len(tokens) // 2],
        "trace_tokens_total": sum(tokens),
    }


def touched_items(features: Mapping[str, Row], most: int = 50) -> dict[str, dict[str, int]]:
    """Test questions that are touched most, by how many questions and by how many traces."""
    columns = {"questions": "question_touches", "traces": "trace_touches"}
    counts = {
        name: Counter(row[column] for row in features.values() if row[column]) for name, column in columns.items()
    }
    return {name: dict(count.most_common(most)) for name, count in counts.items()}


JOB = Job(
    name="featurize",
    summary=(__doc__ or "").strip(),
    options=FeaturizeOptions,
    inputs=("traces", "questions"),
    output="features",
    run=run,
    check=check,
    describe=describe,
    needs=lambda options: ("traces", "questions") if options.judge.enabled else ("traces",),
    outside=lambda options: [records.state(path) for path in options.test_sets],
    on_hub=lambda options: records.on_hub(options.test_sets),
    # The model that is trained is the student, unless a preset names another.
    linked=lambda sections: {"student": model} if (model := sections.get("train", {}).get("model")) else {},
    how=HOW,
)

if __name__ == "__main__":
    command(JOB)
