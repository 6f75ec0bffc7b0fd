"""The evaluation against a given endpoint: a real server of this process, no Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import FORCED, Server, serving

from jobs import pipeline
from jobs.evaluate import JOB, NEVER_ENDS
from jobs.evaluation_options import EvaluateOptions, ServeOptions
from jobs.report import JOB as REPORT
from jobs.report import ReportOptions
from jobs.runner import command, execute
from jobs.served import application, starting
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError
from s1.evaluation.display import UNKNOWN
from serve.engine_options import EngineOptions
from serve.measured import measured_with


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


def test_every_method_is_asked_over_the_one_protocol(run_dir: Path):
    with serving(budget_forcing={**FORCED, "ended_by": "natural"}) as server:
        wanted = options(
            server,
            models=("base", "tuned"),
            num_questions=4,
            waits=(),
            budgets=(8,),
            conditional={"tokens": (2, 8), "steps": (1,), "classes": True, "models": ("tuned",), "num_questions": 2},
            parallel={"rejection": (2, 8), "max_tries": 3, "majority": (4,), "best_of": (2,)},
            usd_per_million_output=1e6,
        )
        manifest = execute(JOB, wanted, str(run_dir))
    rows = table(run_dir)
    by_setting = {name: [row for row in rows if row["setting"] == name] for name in {row["setting"] for row in rows}}
    assert {name: (len(group), group[0]["num_tries"]) for name, group in by_setting.items()} == {
        "natural": (8, 1),
        "direct": (4, 1),
        "max_8": (8, 1),
        "tokens_2": (2, 1),
        "tokens_8": (2, 1),
        "steps_1": (2, 1),
        "class_short": (2, 1),
        "class_long": (2, 1),
        "reject_8": (8, 1),
        "reject_2": (8, 3),  # the server always thinks 4 tokens
        "vote_4": (8, 4),
        "best_2": (8, 2),
    }
    assert all(row["ended_by"] == "rejected" and row["correct"] is False for row in by_setting["reject_2"])
    assert any(row["correct"] for row in by_setting["reject_8"])
    assert all("Think for up to 2 tokens." not in str(row["question"]) for row in by_setting["tokens_2"])
    asked = [body["messages"][0]["content"] for body in server.bodies]
    assert sum(text.endswith("Think for up to 2 tokens.") for text in asked) == 2
    methods = manifest.facts["summary"]["tuned"]["methods"]
    assert methods["budget_forcing"]["control_pct"] == 100
    assert methods["token_conditional"]["control_pct"] == 50
    assert methods["rejection_sampling"]["control_pct"] == 50
    sampled = [row for row in rows if row["method"] == "majority_voting"]
    assert len({row["seed"] for row in sampled}) == 4  # one per question, the same for both models
    assert manifest.cost_usd == sum(12.0 * float(str(row["num_tries"])) for row in rows)
    assert "conditional" not in manifest.facts["summary"]["base"]["methods"]


def test_the_base_model_is_asked_without_thinking_in_its_own_chat_format(run_dir: Path):
    with serving() as server:
        wanted = options(server, num_questions=2, budgets=(), waits=(), direct={"max_tokens": 99}, seed=3)
        manifest = execute(JOB, wanted, str(run_dir))
    (one, other) = (body for body in server.bodies if "chat_template_kwargs" in body)
    assert one["chat_template_kwargs"] == {"enable_thinking": False} and one["max_tokens"] == 99
    assert {one["model"], other["model"]} == {"base"}
    assert "budget_forcing" not in one
    rows = [row for row in table(run_dir) if row["method"] == "direct"]
    assert {(row["setting"], row["max_thinking_tokens"]) for row in rows} == {("direct", None)}
    summary = manifest.facts["summary"]
    assert summary["base"]["direct"]["num_questions"] == 2 and summary["tuned"]["direct"] is None


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"direct": {"models": ("base", "tuned")}}, {"base", "tuned"}),
        ({"models": ("tuned",)}, set()),
        ({"models": ("tuned",), "direct": {"models": ("tuned",)}}, {"tuned"}),
        ({"direct": {"models": ()}}, set()),
        ({"plain": True}, set()),  # its natural end is asked just so
    ],
)
def test_who_is_asked_without_thinking(more: dict[str, object], asked: set[str], run_dir: Path):
    with serving() as server:
        execute(JOB, options(server, num_questions=1, budgets=(), waits=(), **more), str(run_dir))
    assert {body["model"] for body in server.bodies if "chat_template_kwargs" in body} == asked
    assert {row["model"] for row in table(run_dir) if row["setting"] == "direct"} == asked


def test_methods_that_sample_can_be_kept_to_a_model_and_a_few_questions(run_dir: Path):
    with serving(budget_forcing={**FORCED, "ended_by": "natural"}) as server:
        few = {"rejection": (8,), "majority": (2,), "models": ("tuned",), "num_questions": 3}
        execute(JOB, options(server, waits=(), budgets=(8,), parallel=few), str(run_dir))
    asked = Counter((row["model"], row["setting"]) for row in table(run_dir))
    assert asked == {
        ("base", "natural"): 16,
        ("base", "direct"): 16,
        ("base", "max_8"): 16,
        ("tuned", "natural"): 16,
        ("tuned", "max_8"): 16,
        ("tuned", "reject_8"): 3,
        ("tuned", "vote_2"): 3,
    }


@pytest.mark.parametrize("preset", ["s1", "s1.1"])
def test_the_presets_of_the_paper_ask_for_its_methods(preset: str):
    methods = Counter(setting.method for setting in pipeline.parse(["--preset", preset]).evaluate.settings)
    assert methods == {
        "direct": 1,
        "budget_forcing": 6 + 3 + 1,
        "token_conditional": 5,
        "token_conditional_forced": 5,
        "step_conditional": 5,
        "step_conditional_forced": 5,
        "class_conditional": 2,
        "rejection_sampling": 5,
        "majority_voting": 4,
    }


def test_a_strict_endpoint_gets_openai_s_protocol_and_nothing_else(run_dir: Path):
    with serving() as server:
        wanted = options(server, plain=True, num_questions=2, models=("tuned",), conditional={"tokens": (8,)})
        execute(JOB, wanted, str(run_dir))
    assert {key for body in server.bodies for key in body} == {"model", "messages", "temperature"}
    assert {row["setting"] for row in table(run_dir)} == {"natural", "tokens_8"}


def test_of_an_endpoint_that_was_told_of_no_cap_control_is_not_known(run_dir: Path):
    with serving() as server:
        wanted = options(server, plain=True, num_questions=2, models=("tuned",), natural_max_tokens=64)
        manifest = execute(JOB, wanted, str(run_dir))
    assert {"max_tokens"} < {key for body in server.bodies for key in body}, "the completion is bounded all the same"
    tuned = manifest.facts["summary"]["tuned"]
    assert tuned["control_pct"] is tuned["scaling"] is None
    report = run_dir / "report"
    execute(REPORT, ReportOptions(only_results=True), str(run_dir))
    assert json.loads((report / "metrics.json").read_text())["models"]["tuned"]["control_pct"] is None
    assert f"<td>budget forcing</td><td>tuned</td><td>{UNKNOWN}</td>" in (report / "report.html").read_text()
    assert f"| budget_forcing | {UNKNOWN} |" in (report / "methods.md").read_text()


def test_samples_are_seeded_and_told_apart(run_dir: Path):
    with serving() as server:
        wanted = options(server, samples=3, temperature=0.8, num_questions=2, models=("tuned",), budgets=(), waits=())
        manifest = execute(JOB, wanted, str(run_dir))
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == len(seeds) == 6
    assert [row["sample"] for row in table(run_dir)] == [0, 1, 2] * 2
    assert set(manifest.facts["summary"]["tuned"]["natural"]["pass_at_k_pct"]) == {"1", "2", "3"}


def test_a_model_that_never_ends_is_said_early(run_dir: Path):
    endless = {**FORCED, "ended_by": "context"}
    with serving(budget_forcing=endless) as server, pytest.raises(UserError, match="without ending its thinking"):
        execute(JOB, options(server, concurrency=1, domains=("sums", "other"), models=("tuned",)), str(run_dir))
    assert len(server.bodies) <= NEVER_ENDS + 1


def test_a_model_that_never_ends_under_a_guard_is_told_and_counted(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    with serving(budget_forcing=FORCED) as server:
        manifest = execute(JOB, options(server, natural_max_tokens=8, waits=(), models=("tuned",)), str(run_dir))
    assert "tuned has not ended its thinking once in 8 tokens" in capsys.readouterr().err
    assert manifest.facts["summary"]["tuned"]["natural"]["ended_by"] == {"budget": 16}


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
