"""What the pipeline says before it starts anything."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli, featurize, pipeline, runner, train
from jobs.pipeline import STAGES, check_writable, main, result
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError


def mistake(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main(lambda: main(argv))
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--preset", "labtop"], "did you mean 'laptop'"),
        (["--colect.seed", "3"], "--colect.seed"),
        (["--collect.seed", "x"], "--collect.seed"),
        (["--distill.teacher", "socrates"], "socrates"),
        (["--collect.source", "files", "--collect.path", "nowhere.jsonl"], "collect: nowhere.jsonl: no such file"),
        (["--train.model", "embedded:gpt"], "train: unknown embedded model"),
        (["--train.batch-size", "16", "--train.workers", "3"], "not divisible"),
        (["--train.no-packing", "--train.sequence-parallel", "2", "--train.workers", "2"], "add --train.packing"),
        (["--evaluate.budgets", "4", "9999"], "budget 9999 is above natural_max_tokens"),
        (["--evaluate.endpoint", "http://127.0.0.1:9/v1"], "evaluate: endpoint http://127.0.0.1:9/v1: nothing answers"),
        (["--collect.num-test", "0"], "collect.num_test=0 leaves no unseen question"),
        (["--featurize.student", "Qwen/Qwen2.5-7B-Instruct"], "featurize.student='Qwen/Qwen2.5-7B-Instruct': its"),
        (["--train.model", "me/a", "--featurize.student", "me/b"], "train.model='me/a' learns from; leave"),
    ],
)
def test_a_mistake_of_any_stage_is_said_before_the_first_one_runs(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_dir = tmp_path / "run"
    assert says in mistake([*argv, "--run-dir", str(run_dir)], capsys)
    assert not run_dir.exists()


def test_flags_that_a_job_proposes_are_said_as_the_pipeline_has_them():
    others = "choose a --run-dir, or add --train.packing to x--lora"
    told = pipeline.with_section(train.JOB, f"--no-packing --micro-batch-tokens 4 --hardware.host-gib 9; {others}")
    assert told == f"--train.no-packing --train.micro-batch-tokens 4 --train.hardware.host-gib 9; {others}"


def test_a_run_folder_that_cannot_be_written_is_said_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in mistake(["--run-dir", str(tmp_path / "file" / "run")], capsys)
    ray = sys.modules.get("ray")  # of another test
    assert ray is None or not ray.is_initialized()
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("content", [b'{"question": "1 + 1?", "answer": "2"}\n{"answer": "3"}\n', b"PAR1 not Parquet"])
def test_a_bad_row_or_file_is_said_before_ray_starts(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / ("bad.parquet" if content.startswith(b"PAR1") else "bad.jsonl")
    path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_:
        cli.main(
            lambda: main(["--run-dir", str(tmp_path / "run"), "--collect.source", "files", "--collect.path", str(path)])
        )
    assert exit_.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ") and str(path) in said[-1]
    assert "starting Ray" not in said and sum(line.startswith("error") for line in said) == 1


@pytest.mark.parametrize("benchmark", ["aime24", "hub:nobody/nothing", "quiz=hub:nobody/nothing:test"])
def test_a_benchmark_that_the_hub_does_not_give_is_said_before_anything_runs(
    benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["--run-dir", str(tmp_path), "--evaluate.benchmarks", benchmark]
    said = mistake(argv, capsys)
    assert said.startswith("error: evaluate: data set ") and "cannot be read" in said
    assert list(tmp_path.iterdir()) == []
    main([*argv, "--dry-run"])  # asks nobody


def test_the_trained_model_counts_the_tokens_unless_another_is_named():
    for argv in (["--preset", "s1"], ["--train.model", "me/mine"], ["--train.model=me/mine"]):
        options = parsed(argv)
        assert options.featurize.student == options.train.model
    assert runner.parse(featurize.JOB, ["--preset", "s1"])[0].student == "Qwen/Qwen2.5-32B-Instruct"
    assert runner.parse(featurize.JOB, ["--preset", "s1", "--student", "me/mine"])[0].student == "me/mine"


def test_checking_leaves_nothing_behind(tmp_path: Path):
    check_writable(str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(UserError, match=r"run_dir=.*cannot be written"):
        check_writable("/proc/run")


def test_a_dry_run_prints_every_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["--run-dir", str(tmp_path / "run"), "--dry-run", "--select.size", "77"])
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+) \[[0-9a-f]{16}\]$", out, re.MULTILINE) == [job.name for job in STAGES]
    assert "size: 77" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", cli.presets())
def test_every_preset_has_a_plan(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["--preset", preset, "--run-dir", str(tmp_path), "--dry-run"])
    said = capsys.readouterr()
    assert f"writes: {tmp_path}/report" in said.out
    assert said.err == ""  # its benchmarks are among its test sets


def test_a_benchmark_that_is_no_test_set_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("quiz", "other"):
        (folder / f"{name}.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    quiz, dry = str(folder / "quiz.jsonl"), ["--run-dir", str(tmp_path / "run"), "--dry-run"]
    main([*dry, "--evaluate.benchmarks", "math500", f"aime25={quiz}", quiz, "--featurize.test-sets", "hub:me/mine"])
    said = capsys.readouterr().err.splitlines()
    adds = ["add hub:HuggingFaceH4/MATH-500:test there", f"add {quiz} there", f"add {quiz} there"]
    assert len(said) == 3 and all(map(str.endswith, said, adds))
    assert said[0].startswith("evaluate.benchmarks='math500' is not among featurize.test_sets: questions that overlap")
    # As itself, as what it is a copy of, or in a folder.
    main([*dry, "--evaluate.benchmarks", f"gsm8k={quiz}", "--featurize.test-sets", "hub:openai/gsm8k/main:test"])
    main([*dry, "--evaluate.benchmarks", quiz, f"math500={quiz}", "--featurize.test-sets", str(folder)])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("more", [[], ["--featurize.test-sets", "hub:me/mine", "--evaluate.benchmarks", "aime24"]])
def test_stages_that_are_up_to_date_start_no_ray_and_ask_no_hub(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    argv = ["--run-dir", str(tmp_path), *more]
    options = parsed(argv)
    for job, stage in options.stages():
        planned = pipeline.plan(job, stage, str(tmp_path))
        facts = {"summary": {"tuned": SCORES}}
        with Artifact(planned.output).staging() as staging:
            staging.commit(Manifest(job.name, planned.fingerprint, {}, {}, "0", 3, 2, seconds=61, facts=facts))
    loaded = set(sys.modules)
    main(argv)
    assert "ray" not in set(sys.modules) - loaded
    out, err = capsys.readouterr()
    assert err.count("up to date") == len(STAGES)
    assert out.rstrip().endswith(str(tmp_path / "report" / "report.html"))
    assert "7 min 7 s" in out


SCORES = {"direct": None, "natural": None, "points": [], "wait": [], "methods": {}}
SCORES |= {"control_pct": 100.0, "scaling": 12.5, "performance_pct": 70.0}


def parsed(argv: list[str]) -> pipeline.PipelineOptions:
    return pipeline.parse(argv)


def test_the_table_at_the_end():
    summary = json.loads(json.dumps({"tuned": SCORES}))
    text = result([Manifest("evaluate", "", {}, {}, "", 1200, 64, seconds=75, facts={"summary": summary})])
    assert text.splitlines() == [
        "stage     rows in  rows out        time",
        "evaluate    1,200        64  1 min 15 s",
        "total                        1 min 15 s",
        "",
        "              tuned",
        "control      100.0%",
        "scaling       +12.5",
        "performance   70.0%",
    ]


def test_help_has_the_options_of_every_stage():
    done = subprocess.run(
        [sys.executable, "-m", "jobs.pipeline", "--help"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    for job in STAGES:
        assert f"--{job.name}." in done.stdout
