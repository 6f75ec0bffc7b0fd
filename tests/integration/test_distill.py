"""The distill job as far as it goes without Ray: options, mistakes, estimates."""

import json

import pytest

from jobs.collect import JOB as COLLECT
from jobs.collect import CollectOptions
from jobs.distill import JOB, DistillOptions, look_through_recorded
from jobs.runner import command, execute
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError
from s1.teachers import registry


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--teacher", "oracle"], "oracle"),
        (["--teacher", "recorded", "--recorded.path", "/nowhere.jsonl"], "/nowhere.jsonl: no such file or folder"),
        (["--teacher", "vllm", "--vllm.model", "./nowhere"], "model './nowhere': no such folder"),
        (["--teacher", "openai", "--openai.model", ""], "needs --openai.model"),
        (["--teacher", "openai", "--openai.api-key-env", "S1_NO_SUCH_KEY"], "this environment variable is not set"),
        (["--openai.temperature", "hot"], "--openai.temperature"),
        (["--pool.concurrency", "0"], "concurrency=0"),
        (["--max-lost", "2"], "max_lost=2"),
        (["--max-usd", "0"], "max_usd=0"),
        (["--teacher", "openai", "--openai.model", "r1", "--max-usd", "5"], "cannot be kept without a price of 'r1'"),
        (["--teacher", "gemini", "--gemini.model", "g", "--gemini.api-key-env", "S1_NO_SUCH_KEY"], "is not set"),
        ([], "distill needs the questions of this run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_ray_starts(tmp_path, capsys, argv, message):
    import ray

    with pytest.raises(SystemExit) as exit_:
        command(JOB, [*argv, "--run-dir", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not ray.is_initialized()
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_whom_it_would_ask(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?"}\n{"question": "Two?"}')
    execute(COLLECT, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    command(JOB, ["--run-dir", str(tmp_path / "run"), "--dry-run", "--num-questions", "1"])
    assert "asks: worked then recorded for 1 traces" in capsys.readouterr().out


def test_a_question_that_is_there_twice_is_named_before_anybody_is_asked(tmp_path):
    rows = [
        {"question_id": key, "question": f"{key}?", "split": split} for key, split in (("a", "train"), ("a", "test"))
    ]
    with Artifact(str(tmp_path / "questions")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.QUESTIONS))
        staging.commit(Manifest("collect", "q" * 16, {}, {}, "0", 2, 2))
    with pytest.raises(UserError, match=r"/questions: question_id 'a' is there 2 times; keep one row"):
        execute(JOB, DistillOptions(teacher="worked"), str(tmp_path))


PRICED = ["--openai.usd-per-million-input", "1", "--openai.usd-per-million-output", "2"]


def test_an_estimate_is_given_before_the_start(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"What is {number}?"}) for number in range(1000)))
    execute(COLLECT, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    argv = ["--run-dir", str(tmp_path / "run"), "--dry-run", "--teacher", "openai", "--openai.model", "r1", *PRICED]
    argv += ["--openai.expected-input-tokens", "100", "--openai.expected-output-tokens", "4000"]
    command(JOB, [*argv, "--openai.max-tokens", "8000", "--max-usd", "5"])
    out = capsys.readouterr().out
    assert "cost of openai: about $8.10 when all come to it and nothing is recorded (100 + 4,000 tokens each)" in out
    assert "at most $16.10 (8,000 tokens of response)" in out
    assert "cap: $5.00" in out


def test_a_teacher_that_nobody_reaches_is_one_line_before_ray_starts(tmp_path, capsys):
    import ray

    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?"}')
    execute(COLLECT, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    capsys.readouterr()
    argv = ["--run-dir", str(tmp_path / "run"), "--teacher", "openai", "--openai.model", "r1"]
    argv += ["--openai.base-url", "http://127.0.0.1:9/v1"]
    command(JOB, [*argv, "--dry-run"])
    with pytest.raises(SystemExit):
        command(JOB, argv)
    err = capsys.readouterr().err
    assert "openai.base_url='http://127.0.0.1:9/v1': nothing answers there" in err and err.count("\n") == 1
    assert not ray.is_initialized()


def test_recorded_traces_that_repeat_a_question_are_counted_once_before_the_start(tmp_path, capsys):
    path = tmp_path / "traces.jsonl"
    rows = [
        {"question": text, "thinking": str(at), "attempt": "7"} for at, text in enumerate(["A?", "B?", "a? ", "A?"])
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    options = DistillOptions.model_validate({"then": "recorded", "recorded": {"path": str(path)}})
    look_through_recorded(options)
    assert capsys.readouterr().err == f"distill: {path}: 2 row(s) repeat a question; its first row counts\n"
    path.write_text(json.dumps(rows[0]))
    look_through_recorded(options)
    look_through_recorded(DistillOptions())
    assert capsys.readouterr().err == ""


def test_the_key_of_a_request_ignores_what_does_not_shape_the_answer():
    def identity(**changes: object) -> str:
        values = {"model": "r1", **changes}
        spec = registry.spec(DistillOptions.model_validate({"teacher": "openai", "openai": values}))
        return json.dumps(spec.identity("openai"), sort_keys=True)

    assert identity() == identity(timeout_s=5, base_url="http://other/v1", usd_per_million_output=3)
    assert len({identity(), identity(model="r2"), identity(max_tokens=9), identity(extra_body={"seed": 1})}) == 4
