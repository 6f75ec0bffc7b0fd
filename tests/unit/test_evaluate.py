"""The evaluation against a given endpoint: a real server of this process, no Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import FORCED, Server, serving

from jobs.evaluate import JOB, EvaluateOptions
from jobs.runner import command, execute
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    rows = [
        {
            "question_id": f"{number:02d}",
            "question": str(number),
            "answer": str(number if number % 2 else -1),  # the server repeats the question: odd ones come out right
            "source": "files:x",
            "domain": "sums" if number < 12 else "other",
            "split": "train" if number < 4 else "test",
        }
        for number in range(20)
    ]
    with Artifact(str(tmp_path / "questions")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.QUESTIONS))
        staging.commit(Manifest("collect", "c", {}, {}, "0", 20, 20))
    return tmp_path


def options(server: Server, **more: object) -> EvaluateOptions:
    values = {"endpoint": server.endpoint.base_url, "budgets": (4, 8), "max_answer_tokens": 16, **more}
    return EvaluateOptions.model_validate(values)


def table(run_dir: Path) -> list[dict[str, object]]:
    return Artifact(str(run_dir / "generations")).read(schema.GENERATIONS).to_pylist()


def test_every_test_question_is_asked_in_every_setting(run_dir: Path):
    with serving(budget_forcing=FORCED) as server:
        manifest = execute(JOB, options(server, natural_max_tokens=64), str(run_dir))
    rows = table(run_dir)
    assert len(rows) == len(server.bodies) == 2 * 4 * 16
    assert {row["question_id"] for row in rows} == {f"{number:02d}" for number in range(4, 20)}
    assert list(dict.fromkeys((row["model"], row["setting"]) for row in rows)) == [
        (model, setting) for model in ("base", "tuned") for setting in ("wait_1", "natural", "max_8", "max_4")
    ]
    assert all(row["correct"] == (int(str(row["question"])) % 2 == 1) for row in rows)
    assert manifest.facts["summary"]["tuned"]["natural"]["accuracy_pct"] == 50
    assert manifest.facts["summary"]["tuned"]["control_pct"] == 100
    assert (manifest.rows_in, manifest.rows_out) == (16, 128)
    wait = next(body for body in server.bodies if body["budget_forcing"]["num_ignore"])
    assert wait["budget_forcing"] == {
        "num_ignore": 1,
        "ignore_str": "Wait",
        "max_tokens": 64,
        "max_answer_tokens": 16,
    }
    assert wait["max_tokens"] > 64 + 16


def test_named_domains_and_a_limit(run_dir: Path):
    with serving() as server:
        manifest = execute(JOB, options(server, domains=("sums",), num_questions=3, models=("tuned",)), str(run_dir))
    assert len(server.bodies) == 3 * 4
    assert {row["domain"] for row in table(run_dir)} == {"sums"}
    assert manifest.dropped == {"other domains": 8, "over num_questions": 5}


def test_domains_that_nobody_asks_about_end_in_one_line(run_dir: Path):
    with serving() as server, pytest.raises(UserError, match="none of 16 test questions"):
        execute(JOB, options(server, domains=("nothing",)), str(run_dir))


def test_a_benchmark_of_the_user_needs_nothing_of_a_run(tmp_path: Path):
    for name, answers in (("aime", "12"), ("math", "34")):
        lines = [json.dumps({"problem": text, "answer": text}) for text in answers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    references = (str(tmp_path / "aime.jsonl"), str(tmp_path / "math.jsonl"))
    with serving() as server:
        execute(JOB, options(server, benchmarks=references), str(tmp_path / "run"))
    rows = table(tmp_path / "run")
    assert {(row["domain"], row["question"]) for row in rows} == {
        ("aime", "1"),
        ("aime", "2"),
        ("math", "3"),
        ("math", "4"),
    }
    assert all(row["correct"] for row in rows)


def test_a_benchmark_without_answers_is_named(tmp_path: Path):
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"problem": "1"}))
    with serving() as server, pytest.raises(UserError, match=r"quiz.jsonl': none of 1 rows has an answer"):
        execute(JOB, options(server, benchmarks=(str(tmp_path / "quiz.jsonl"),)), str(tmp_path / "run"))


def test_an_endpoint_that_fails_half_way_keeps_what_is_finished(run_dir: Path):
    with serving() as server:
        server.refuse_at = 10
        wanted = options(server, concurrency=1, num_questions=3)
        with pytest.raises(UserError, match="answered 400"):
            execute(JOB, wanted, str(run_dir))
        assert not (run_dir / "generations" / "manifest.json").exists()
        execute(JOB, wanted, str(run_dir))
        assert len(server.bodies) == 24 + 1
    assert len(table(run_dir)) == 24
    assert not list((run_dir / "_scratch").iterdir())


def test_a_killed_run_goes_on_without_asking_again(run_dir: Path):
    with serving(budget_forcing=FORCED) as server:
        server.hold_after = 40
        argv = [sys.executable, "-m", "jobs.evaluate", "--endpoint", server.endpoint.base_url, "--budgets", "4", "8"]
        argv += ["--natural-max-tokens", "64", "--run-dir", str(run_dir), "--concurrency", "4"]
        argv += ["--num-questions", "16", "--domains", "sums", "other"]
        process = subprocess.Popen(argv, cwd=Path(__file__).parents[2], env=os.environ.copy())
        deadline = time.monotonic() + 60
        while (kept := finished(run_dir)) < 40 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kept == 40
        server.release.set()
        asked = len(server.bodies)
        command(JOB, argv[3:])
        assert len(server.bodies) - asked == 128 - 40
    assert len(table(run_dir)) == 128


def finished(run_dir: Path) -> int:
    return sum(file.read_text().count("\n") for file in run_dir.glob("_scratch/*/*.jsonl"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"models": ("gpt",)}, "does not serve 'gpt' but base, tuned"),
        ({"endpoint": "localhost:8000"}, "must be a URL"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "nothing answers there"),
        ({"benchmarks": ("nowhere.jsonl",)}, "no such file or folder"),
        ({"endpoint": None, "models": ("gpt",)}, "only base and tuned can be deployed"),
        ({"endpoint": None, "base_model": "embedded:gpt"}, "unknown embedded model"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_runs(more: dict[str, object], message: str):
    with serving() as server, pytest.raises(UserError, match=message) as error:
        JOB.check(options(server, **more))
    assert "\n" not in str(error.value)


def test_a_budget_above_the_guard_is_refused(capsys: pytest.CaptureFixture[str], run_dir: Path):
    with pytest.raises(SystemExit) as exit_:
        command(JOB, ["--run-dir", str(run_dir), "--budgets", "99", "--natural-max-tokens", "50"])
    assert exit_.value.code == 2
    assert "budget 99 is above natural_max_tokens 50" in capsys.readouterr().err


def test_segments_are_kept_as_json(run_dir: Path):
    with serving(budget_forcing=FORCED) as server:
        execute(JOB, options(server, num_questions=1), str(run_dir))
    assert json.loads(str(table(run_dir)[0]["segments"])) == FORCED["segments"]
