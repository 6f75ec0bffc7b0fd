"""What featurize says about its input, before Ray is started."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.solver import SolverOptions
from jobs import featurize
from jobs.asking import AskOptions
from jobs.domains import DomainOptions
from jobs.judging import JudgeOptions
from jobs.runner import execute
from jobs.solving import summed_up
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.curation.difficulty import failure_rate, percentiles
from s1.errors import UserError
from s1.teachers.openai import OpenAI


def put(run_dir: Path) -> Path:
    """TRACES in two files; the second one's path."""
    rows = [{"question_id": f"q{n}", "question": "Q?", "thinking": os.urandom(50).hex()} for n in range(200)]
    with Artifact(str(run_dir / "traces")).staging() as staging:
        for part in range(2):
            table = schema.to_table(rows[100 * part : 100 * part + 100], schema.TRACES)
            staging.write_table(table, f"part-{part:05d}.parquet")
        staging.commit(Manifest("distill", "f" * 16, {}, {}, "0", 200, 200))
    return run_dir / "traces" / "part-00001.parquet"


def test_a_damaged_file_is_named_even_where_its_keys_can_be_read(tmp_path: Path):
    file = put(tmp_path)
    column = pq.read_schema(file).get_field_index("thinking")
    start = pq.read_metadata(file).row_group(0).column(column).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 100] = b"\xff" * 100
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"part-00001.parquet: not readable as Parquet after row 0"):
        execute(featurize.JOB, featurize.FeaturizeOptions(), str(tmp_path))


def test_test_sets_of_one_name_are_told_apart(tmp_path: Path):
    files = [tmp_path / name for name in ("a/test.jsonl", "b/test.jsonl", "b/other.jsonl")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"question": "One?"}\n{"question": "Two?"}\n')
    tests = featurize.test_items(featurize.FeaturizeOptions(test_sets=tuple(map(str, files))))
    same = [f"{file}:{row}" for file in files[:2] for row in (1, 2)]
    assert tests.names == [*same, "other.jsonl:1", "other.jsonl:2"]
    twice = featurize.test_items(featurize.FeaturizeOptions(test_sets=(str(files[0]), str(files[0]))))
    assert twice.names == 2 * ["test.jsonl:1", "test.jsonl:2"]


def test_a_dry_run_estimates_what_judge_and_naming_of_subjects_cost(tmp_path: Path):
    put(tmp_path)
    priced = OpenAI(model="r1", usd_per_million_output=10.0, expected_output_tokens=500)
    options = featurize.FeaturizeOptions(
        solver=SolverOptions(attempts=3, temperature=0.8, models=("a", "b")),
        judge=JudgeOptions(enabled=True, openai=priced),
        domains=DomainOptions(method="llm", llm=AskOptions(openai=OpenAI(model="r2"))),
    )
    manifests = {"traces": Artifact(str(tmp_path / "traces")).manifest()}
    assert featurize.describe(options, manifests)[1:] == [
        "generates for 200 questions: 1,200 completions with 28,800 tokens expected, at most 1,200 with 28,800",
        "cost of judge: about $7.00 when all come to it and nothing is recorded (200 + 500 tokens each)",
        "cost of domains.llm: no price of 'r2' is set",
    ]
    unasked = featurize.FeaturizeOptions(solver=SolverOptions(models=()))
    assert len(featurize.describe(unasked, manifests)) == 1


def attempt(key: str, model: str, verdict: bool | None) -> dict[str, Any]:
    return {"question_id": key, "solver": model, "solver_attempt": f"{model} says {verdict}", "solver_correct": verdict}


def test_attempts_of_all_solvers_are_summed_up():
    attempts = [attempt("a", "small", False), attempt("b", "small", None), attempt("a", "small", True)]
    attempts += [attempt("a", "large", False), attempt("b", "large", False), attempt("c", "large", None)]
    assert summed_up(attempts) == {
        "a": {
            "solver": "small",
            "solver_attempt": "small says True",
            "solver_correct": True,
            "solver_attempts": 3,
            "solver_solved": 1,
        },
        "b": {
            "solver": "large",
            "solver_attempt": "large says False",
            "solver_correct": False,
            "solver_attempts": 1,
            "solver_solved": 0,
        },
        "c": {
            "solver": "large",
            "solver_attempt": "large says None",
            "solver_correct": None,
            "solver_attempts": 0,
            "solver_solved": 0,
        },
    }


def test_difficulty_and_length_as_quality():
    assert failure_rate(0, 0) == 0.5
    assert failure_rate(8, 0) > failure_rate(2, 0) > failure_rate(2, 1) > failure_rate(8, 8) > 0
    assert percentiles([5, 1, 5, 9]).tolist() == [0.75, 0.25, 0.75, 1.0]
