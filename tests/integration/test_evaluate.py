"""The evaluation against a given endpoint: a real server of this process, no Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import FORCED, serving
from evaluation_cases import options, table, write_questions

from jobs.evaluate import JOB
from jobs.evaluation_options import ServeOptions
from jobs.runner import command, execute
from jobs.served import application, starting
from s1.errors import UserError
from serve.engine_options import EngineOptions
from serve.measured import measured_with


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_questions(tmp_path)


def test_every_test_question_is_asked_in_every_setting(run_dir: Path):
    with serving(budget_forcing=FORCED) as server:
        manifest = execute(JOB, options(server, natural_max_tokens=64), str(run_dir))
    rows = table(run_dir)
    assert len(rows) == len(server.bodies) == (2 * 4 + 1) * 16
    assert {row["question_id"] for row in rows} == {f"{number:02d}" for number in range(4, 20)}
    forced = ["wait_1", "max_8", "max_4"]
    assert list(dict.fromkeys((row["model"], row["setting"]) for row in rows)) == [
        *(("base", setting) for setting in ("natural", "direct", *forced)),
        *(("tuned", setting) for setting in ("natural", *forced)),
    ]
    assert all(row["correct"] == (int(str(row["question"])) % 2 == 1) for row in rows)
    assert manifest.facts["summary"]["tuned"]["natural"]["accuracy_pct"] == 50
    assert manifest.facts["summary"]["tuned"]["control_pct"] == 100
    assert (manifest.rows_in, manifest.rows_out) == (16, 144)
    wait = next(body for body in server.bodies if body.get("budget_forcing", {}).get("num_ignore"))
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
    with serving() as server, pytest.raises(UserError, match=r"quiz.jsonl': no row has an answer"):
        execute(JOB, options(server, benchmarks=(str(tmp_path / "quiz.jsonl"),)), str(tmp_path / "run"))


def test_an_endpoint_that_fails_half_way_keeps_what_is_finished(run_dir: Path):
    with serving() as server:
        server.refuse_at = 10
        wanted = options(server, concurrency=1, num_questions=3)
        with pytest.raises(UserError, match="answered 400"):
            execute(JOB, wanted, str(run_dir))
        assert not (run_dir / "generations" / "_manifest.json").exists()
        execute(JOB, wanted, str(run_dir))
        assert len(server.bodies) == 27 + 1
    assert len(table(run_dir)) == 27
    assert not list((run_dir / "_scratch").iterdir())


def test_another_time_limit_or_concurrency_goes_on_with_what_is_finished(run_dir: Path, capsys):
    with serving() as server:
        server.refuse_at = 10
        with pytest.raises(UserError, match="answered 400"):
            execute(JOB, options(server, concurrency=1, num_questions=3), str(run_dir))
        server.refuse_at = 15  # of all that come
        with pytest.raises(UserError, match="answered 400"):
            execute(JOB, options(server, concurrency=1, num_questions=3, budgets=(4,)), str(run_dir))
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "not finished" in line]
        assert line.startswith(f"evaluate: {run_dir}/_scratch/evaluate-") and "0.0 MiB of a run with other" in line
        asked = len(server.bodies)
        more = {"concurrency": 2, "timeout_s": 7200.0, "usd_per_million_output": 1.0, "api_key_env": "ANOTHER"}
        execute(JOB, options(server, num_questions=3, **more), str(run_dir))
        assert len(server.bodies) - asked == 27 - 9
        execute(JOB, options(server, num_questions=3), str(run_dir))  # up to date
        assert len(server.bodies) - asked == 27 - 9
    assert len(table(run_dir)) == 27


def test_the_code_of_a_scorer_counts_as_an_input(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    scorer = tmp_path / "my_scorer_of_evaluate.py"
    scorer.write_text("async def good(question, answer): return 1.0\n")
    with serving() as server:
        best = {"best_of": (2,), "scorer": "my_scorer_of_evaluate:good"}
        wanted = options(server, models=("tuned",), num_questions=1, budgets=(), waits=(), parallel=best)
        for asked in (3, 3):
            execute(JOB, wanted, str(run_dir))
            assert len(server.bodies) == asked
        scorer.write_text("async def good(question, answer): return 2.0\n")
        execute(JOB, wanted, str(run_dir))
    assert len(server.bodies) == 6


def test_a_killed_run_goes_on_without_asking_again(run_dir: Path):
    with serving(budget_forcing=FORCED) as server:
        server.hold_after = 40
        argv = [sys.executable, "-m", "jobs.evaluate", "--endpoint", server.endpoint.base_url, "--budgets", "4", "8"]
        argv += ["--natural-max-tokens", "64", "--run-dir", str(run_dir), "--concurrency", "4"]
        argv += ["--num-questions", "16", "--domains", "sums", "other"]
        process = subprocess.Popen(argv, cwd=Path(__file__).parents[2], env=os.environ.copy())
        deadline = time.monotonic() + 600
        while (kept := finished(run_dir)) < 40 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kept == 40
        server.release.set()
        asked = len(server.bodies)
        command(JOB, argv[3:])
        total = (2 * 4 + 1) * 16 + 4 * 12  # the preset asks the tuned model 12 questions in words
        assert len(server.bodies) - asked == total - 40
    assert len(table(run_dir)) == total


def finished(run_dir: Path) -> int:
    return sum(file.read_text().count("\n") for file in run_dir.glob("_scratch/*/*.jsonl"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"models": ("gpt",)}, "does not serve 'gpt' but base, tuned"),
        ({"endpoint": "localhost:8000"}, "must be a URL"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "nothing answers there"),
        ({"benchmarks": ("nowhere.jsonl",)}, "no such file or folder"),
        ({"endpoint": None, "models": ("gpt",)}, "only base and tuned can be run"),
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


def test_every_score_records_what_it_was_measured_with(run_dir: Path):
    with serving() as server:
        server.version = "0.29.0"
        manifest = execute(JOB, options(server, num_questions=1), str(run_dir))
    engine = manifest.facts["engine"]
    assert engine["endpoint"] == server.endpoint.base_url
    assert engine["versions"] == {"server": "0.29.0"}
    assert (
        engine["batch_size"] is engine["parallelism"] is engine["precision"] is None
    )  # vLLM's own server says no more
    assert {"concurrency", "temperature", "seed"} <= set(engine)


def test_a_server_of_ours_tells_what_it_runs_with(run_dir: Path):
    told = measured_with(EngineOptions.model_validate({"max_num_seqs": 48, "dtype": "float32"}), num_replicas=2)
    with serving() as server:
        server.pages["/version"] = {"version": "0.29.0", **told}
        manifest = execute(JOB, options(server, num_questions=1), str(run_dir))
    engine = manifest.facts["engine"]
    assert engine["endpoint"] == server.endpoint.base_url
    assert (engine["engine"], engine["batch_size"], engine["precision"]) == ("vLLM on Ray Serve, cpu", 48, "float32")
    assert engine["parallelism"] == "2 x tensor parallel 1"
    assert {"ray", "torch", "transformers"} <= engine["versions"].keys()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--samples", "4"], "raise the temperature"),
        (["--parallel.tree", "4"], "needs a process reward"),
        (["--parallel.tree", "4", "--parallel.reward", "a:b"], "set offline"),
        (["--parallel.best-of", "4", "--parallel.scorer", "nowhere:score"], "'nowhere:score' cannot be loaded"),
        (["--parallel.best-of", "4", "--parallel.scorer", "json:dumps"], "no async function"),
        (["--parallel.best-of", "4", "--parallel.scorer", "json"], "'json' cannot be loaded; give module:name"),
        (["--parallel.best-of", "4", "--parallel.scorer", "json:dump_"], "json has no 'dump_'; did you mean 'dump"),
        (["--conditional.models", "gpt"], "conditional.models='gpt' is none of models"),
        (["--direct.models", "gpt"], "direct.models='gpt' is none of models"),
        (["--parallel.models", "gpt"], "parallel.models='gpt' is none of models"),
        (["--offline", "--endpoint", "http://x/v1"], "contradict each other"),
        (["--plain"], "for endpoints that cannot force"),
        (["--benchmarks", "aime99"], "known by name are aime24"),
        (["--ignore-strs", "Wait", "Wait,"], "'Wait' and 'Wait,' would both be the setting wait_1"),
        (["--ignore-strs", "!", "…"], "'!' and '…' would both be the setting string_1"),
        (["--ignore-strs", "max", "--waits", "8", "--budgets", "8"], "'max' and a budget_forcing would both be"),
        (
            ["--ignore-strs", "Vote", "--waits", "4", "--parallel.majority", "4"],
            "a majority_voting and 'Vote' would both be",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], run_dir: Path
):
    with pytest.raises(SystemExit) as exit_:
        command(JOB, ["--run-dir", str(run_dir), *argv])
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (TimeoutError("not serving after 60 s: engine-base"), "engine-base; serve.startup_timeout_s=60 has to cover"),
        (
            RuntimeError("could not be served: trying\nagain"),
            "served: trying again; a model must load within",
        ),
        (
            RuntimeError("the models could not be served: Traceback:\n  File x\ns1.StartFailed: no memory; see y"),
            "^the models could not be served: s1.StartFailed: no memory; see y; a model must load within",
        ),
    ],
)
def test_models_that_do_not_start_end_in_one_line(failure: Exception, message: str):
    with pytest.raises(UserError, match=message) as said, starting(60):
        raise failure
    assert "\n" not in str(said.value) and "\\n" not in str(said.value)


def test_the_bound_of_the_start_is_no_option_of_the_application():
    serving = ServeOptions(startup_timeout_s=60, num_replicas=2)
    assert application({"base": "embedded:smollm2-135m-instruct"}, serving).num_replicas == 2
