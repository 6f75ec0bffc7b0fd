"""The four examples of docs/extending.md, as they stand there, and what is said when a name is not there."""

import asyncio
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import serving
from extending_page import examples
from feature_tables import feature_rows, put

from actors.teacher_pool import QUESTION_COLUMNS, TeacherWorker
from jobs import cli, collect, distill, evaluate, pipeline, runner, select
from jobs.distill import DistillOptions
from jobs.evaluation_options import EvaluateOptions
from jobs.runner import command, execute, plan
from s1 import schema
from s1.artifacts import Artifact
from s1.errors import UserError
from s1.evaluation import benchmarks
from s1.grading.verify import correct
from s1.sources import records
from s1.sources.mapping import Fields
from s1.teachers import registry
from s1.teachers.service import Service


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the files of the page, and Python looking there as `python -m` does."""
    for name, text in examples().items():
        (tmp_path / name).write_text(text)
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "broken")):
            del sys.modules[name]


def add(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def rows_of(run_dir: Path, name: str, table: Any) -> list[dict[str, Any]]:
    return Artifact(str(run_dir / name)).read(table).to_pylist()


def traced(teacher: str, rows: list[dict[str, Any]], ledger: Path | None = None, **more: Any) -> list[dict[str, Any]]:
    """What a worker of a teacher makes of rows of QUESTIONS; in this process, without Ray."""
    options = DistillOptions.model_validate({"teacher": teacher, **more})
    distill.check(options)
    worker = TeacherWorker(registry.spec(options), str(ledger) if ledger else None, 8)
    table = schema.to_table(rows, schema.QUESTIONS).select(QUESTION_COLUMNS)
    return asyncio.run(worker(table)).to_pylist()


def test_every_example_is_a_file_of_less_than_forty_lines():
    assert list(examples()) == ["my_source.py", "my_teacher.py", "my_method.py", "my_benchmark.py"]
    assert all(text.count("\n") < 40 for text in examples().values())


def test_the_source_and_the_teacher_give_right_traces(folder: Path):
    command(collect.JOB, ["--source", "my_source:questions", "--num-test", "5", "--run-dir", "run"])
    rows = rows_of(folder / "run", "questions", schema.QUESTIONS)
    assert len(rows) == 117 and {row["source"] for row in rows} == {"my_source:questions"}
    assert sum(row["split"] == "test" for row in rows) == 10
    outcomes = traced("my_teacher:Walker", rows)
    assert {(row["teacher"], row["trace_kind"], row["status"]) for row in outcomes} == {("walker", "worked", "ok")}
    assert all(correct(row, outcome["attempt"]) for row, outcome in zip(rows, outcomes, strict=True))


def test_what_the_teacher_does_not_know_goes_to_the_next_one(folder: Path):
    row = {"question_id": "q", "question": "2 + 2?", "solution": "two and two\nare four", "answer": "4"}
    (outcome,) = traced("my_teacher:Walker", [row], then="recorded")
    assert (outcome["teacher"], outcome["attempt"]) == ("recorded", "4")


def test_the_method_takes_as_many_of_every_domain_and_the_order_of_rows_is_all_one(folder: Path):
    rows = feature_rows()
    for row in rows:
        row["source"] = "gym"
    put(folder / "a", rows)
    put(folder / "b", rows[::-1])
    picks: list[list[str]] = []
    for name in "ab":
        command(select.JOB, ["--method", "my_method:balanced", "--size", "11", "--run-dir", name])
        chosen = rows_of(folder / name, "selection", schema.SELECTION)
        picks.append([row["question_id"] for row in chosen])
        assert sorted(row["domain"] for row in chosen) in (["a"] * 6 + ["b"] * 5, ["a"] * 5 + ["b"] * 6)
        assert {row["trace_tokens"] for row in chosen[:10]} == set(range(130, 140))
    assert picks[0] == picks[1]
    command(select.JOB, ["--method", "my_method:balanced", "--size", "11", "--quotas", "a", "2", "--run-dir", "a"])
    assert sum(row["domain"] == "a" for row in rows_of(folder / "a", "selection", schema.SELECTION)) == 2


def test_the_benchmark_is_asked_and_graded(folder: Path):
    rows = benchmarks.load("my_benchmark:long_walks", Fields())
    assert len(rows) == 40 and {row["domain"] for row in rows} == {"long_walks"}
    assert rows[0]["answer"] == "111" and correct(rows[0], "so \\boxed{111}") and not correct(rows[0], "Answer: 110")
    assert {row["domain"] for row in benchmarks.load("walks=my_benchmark:long_walks", Fields())} == {"walks"}
    with serving() as server:
        values = {"endpoint": server.base_url, "budgets": (), "waits": (), "max_answer_tokens": 8, "num_questions": 3}
        options = EvaluateOptions.model_validate({**values, "benchmarks": ("my_benchmark:long_walks",)})
        execute(evaluate.JOB, options, "run")
    rows = rows_of(folder / "run", "generations", schema.GENERATIONS)
    asked = Counter((row["model"], row["setting"]) for row in rows)
    assert asked == {("base", "direct"): 3, ("base", "natural"): 3, ("tuned", "natural"): 3}


def test_every_command_of_the_page_is_accepted(folder: Path, capsys: pytest.CaptureFixture[str]):
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^python -m jobs\.(\w+) (.*)$", text, re.MULTILINE)
    assert [name for name, _ in commands] == ["collect", "distill", "select", "evaluate", "pipeline"]
    for name, flags in commands:
        argv = [*shlex.split(flags), "--dry-run"]
        if name == "pipeline":
            pipeline.main(argv)
        else:
            runner.command(sys.modules[f"jobs.{name}"].JOB, argv)
    assert "reads rows of my_source:questions" in capsys.readouterr().out


def test_the_command_s1_finds_them_in_the_working_directory(folder: Path):
    command = [sys.executable, "-P", "-c", "from jobs.__main__ import main; main()"]
    command += ["collect", "--source", "my_source:questions", "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert "reads rows of my_source:questions" in done.stdout, done.stderr


def test_another_code_is_another_plan(folder: Path):
    def identities() -> list[str]:
        flags = "--collect.source my_source:questions --distill.teacher my_teacher:Walker "
        flags += "--select.method my_method:balanced --evaluate.benchmarks my_benchmark:long_walks"
        options = pipeline.parse(flags.split())
        return [plan(job, stage, "run").fingerprint for job, stage in options.stages()]

    before = identities()
    assert identities() == before
    for name in ("my_source", "my_teacher", "my_method", "my_benchmark"):
        add(folder, name, (folder / f"{name}.py").read_text() + "# changed\n")
    after = identities()
    changed = [job.name for job, old, new in zip(pipeline.STAGES, before, after, strict=True) if old != new]
    assert changed == ["collect", "distill", "select", "evaluate"]


BROKEN = """
from s1.teachers.protocol import Status, TraceOutcome
from s1.teachers.service import Service

def rows(): return [{"question": "2 + 2?"}, "3 + 3?"]
def needs(what): return []
class NoTrace: name, trace_kind = "a", "raw"
class NoName:
    trace_kind = "raw"
    async def trace(self, question): ...
class Unrecorded(NoName):
    name, service = "paid", Service(model="m")
class Raises(NoName):
    name = "raises"
    async def trace(self, question): raise KeyError("gone")
class Silent(NoName):
    name = "silent"
number = 7
def floats(pool, size): return [0.5]
def twice(pool, size): return [1, 1]
def beyond(pool, size): return [len(pool)]
"""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--collect.source", "fiels"], "collect.source='fiels': sources are gym, files, hub, paper, or module:name"),
        (["--collect.source", "fiels"], "did you mean 'files'?"),
        (["--collect.source", "nowhere:rows"], "No module named 'nowhere'); put nowhere.py into the folder"),
        (["--collect.source", "broken:row"], "broken has no 'row'; did you mean 'rows'?"),
        (["--collect.source", "broken:needs"], "must be a function without arguments"),
        (["--collect.source", "broken_too:rows"], "cannot be loaded (invalid syntax (broken_too.py, line 1)); mend it"),
        (["--distill.teacher", "socrates"], "teachers are recorded, worked, vllm, openai, gemini, or module:name"),
        (["--distill.teacher", "broken:Socrates"], "broken has no 'Socrates'"),
        (["--distill.teacher", "broken:rows"], "'broken:rows' must be a class"),
        (["--distill.teacher", "broken:NoTrace"], "needs `async def trace(self, question)`"),
        (["--distill.teacher", "broken:NoName"], "needs 'name'"),
        (["--distill.teacher", "broken:Unrecorded"], "give it `identity`"),
        (["--select.method", "k_centre"], "did you mean 'k_center'?"),
        (["--select.method", "broken:number"], "must be a function of the pool and the number of rows"),
        (["--select.method", "broken:floats", "--select.shards", "2"], "shards=2: method must be one of"),
        (["--evaluate.benchmarks", "broken:row"], "benchmark 'broken:row': 'broken:row': broken has no 'row'"),
        (["--evaluate.benchmarks", "broken:rows"], "broken:rows: row 2: is a str, must be a dict"),
        (["--featurize.test-sets", "nowhere:rows"], "No module named 'nowhere'"),
    ],
)
def test_a_wrong_name_is_one_line_before_anything_starts(
    argv: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    add(folder, "broken", BROKEN)
    add(folder, "broken_too", "def rows(:")
    with pytest.raises(SystemExit) as exit_:
        cli.main(lambda: pipeline.main([*argv, "--run-dir", "run"]))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert says in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("method", "says"),
    [("floats", "gave float64 of shape"), ("twice", "gave 2 picks of 1 rows"), ("beyond", "picked row 40, the rows")],
)
def test_picks_that_are_none_are_refused(method: str, says: str, folder: Path):
    add(folder, "broken", BROKEN)
    put(folder / "run", feature_rows())
    options = select.SelectOptions(method=f"broken:{method}", size=5)
    with pytest.raises(UserError, match=says):
        execute(select.JOB, options, "run")


def test_a_fault_in_a_teacher_ends_the_job_and_says_where(folder: Path):
    add(folder, "broken", BROKEN)
    (raised,) = traced("broken:Raises", [{"question_id": "q7", "question": "2 + 2?"}])
    assert raised["status"] == "fatal" and re.search(
        r"broken:Raises raised KeyError: 'gone' \(.*broken\.py:15, question q7\)", raised["detail"]
    )
    (silent,) = traced("broken:Silent", [{"question_id": "q7", "question": "2 + 2?"}])
    assert (silent["status"], silent["detail"]) == ("fatal", "broken:Silent gave a NoneType, must be a TraceOutcome")


PAID = """
from s1.teachers.protocol import classified
from s1.teachers.service import Service

asked = []

class Paid:
    name, trace_kind = "paid", "raw"
    service = Service(model="m", api_key_env="MY_KEY", usd_per_million_output=2.0)
    identity = {"prompt": 1}

    def __init__(self, key): self.key = key
    async def trace(self, question):
        asked.append((question.question, self.key.get_secret_value()))
        return classified("hm", "4", "stop", output_tokens=10, cost_usd=0.25)
"""


def test_a_paid_teacher_gets_its_key_and_is_asked_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    add(folder, "my_paid", PAID)
    with pytest.raises(UserError, match=r"my_paid:Paid: service\.api_key_env='MY_KEY': this environment variable"):
        distill.check(DistillOptions.model_validate({"teacher": "my_paid:Paid"}))
    monkeypatch.setenv("MY_KEY", "sesame")
    rows = [{"question_id": "q", "question": "2 + 2?"}]
    first = traced("my_paid:Paid", rows, folder / "ledger", max_usd=1.0)
    again = traced("my_paid:Paid", rows, folder / "ledger", max_usd=1.0)
    assert first == again and first[0]["cost_usd"] == 0.25
    assert sys.modules["my_paid"].asked == [("2 + 2?", "sesame")]
    spec = registry.spec(DistillOptions.model_validate({"teacher": "my_paid:Paid"}))
    assert spec.is_paid and isinstance(spec.services["my_paid:Paid"], Service)
    assert "sesame" not in repr(spec)


def test_test_sets_and_recorded_traces_can_be_functions_too(folder: Path):
    assert next(iter(records.read("my_source:questions"))).where == "my_source:questions: row 1"
    assert records.stem("my_source:questions") == "questions"
    assert not any(
        map(records.extensions.is_reference, ("hub:a", "hub:a/b", "s3://a/b", "a/b:c", "C:\\x", "a.jsonl", "a"))
    )
