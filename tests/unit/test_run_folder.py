from pathlib import Path

import pytest

from jobs import ablate, cli, evaluate, pipeline, publish, select, train
from jobs.ray_session import run_folder
from jobs.runner import Job, check, command
from s1.config import Config

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def test_a_relative_folder_stays_relative_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SUBMITTED, raising=False)
    assert run_folder("runs/laptop") == "runs/laptop"


def test_a_submitted_job_does_not_write_into_the_copy_that_is_thrown_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SUBMITTED, "{}")
    assert run_folder("runs/laptop") == str(Path.home() / "runs" / "laptop")
    for named in ("/mnt/runs", "~/runs", "s3://bucket/runs"):
        assert run_folder(named) == named


@pytest.mark.parametrize(
    ("run", "flags"),
    [
        (lambda argv: cli.main(lambda: pipeline.main(argv)), []),
        (lambda argv: cli.main(lambda: pipeline.main(argv)), ["--dry-run"]),
        (lambda argv: cli.main(lambda: ablate.main(argv)), []),
        (lambda argv: command(train.JOB, argv), []),
        (lambda argv: command(evaluate.JOB, argv), []),
        (lambda argv: command(publish.JOB, argv), ["--repo", "owner/name"]),
        (lambda argv: command(publish.JOB, argv), ["--model-repo", "owner/name"]),
    ],
    ids=["pipeline", "plan of it", "ablate", "train", "evaluate", "publish data", "publish model"],
)
def test_an_object_store_is_refused_before_anything_runs_where_files_are_needed(run, flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(["--run-dir", "s3://bucket/run", *flags])  # which is not asked whether it exists
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said.count("\n") == 1 and "run_dir='s3://bucket/run' is an object store" in said and ": give one" in said


@pytest.mark.parametrize(
    ("job", "options"),
    [
        (select.JOB, select.SelectOptions()),
        (publish.JOB, publish.PublishOptions()),
        (train.JOB, train.TrainOptions()),
    ],
)
def test_a_run_folder_that_does_is_not_refused(job: Job, options: Config):
    for run_dir in ("runs/laptop", "file:///mnt/runs", *([] if job is train.JOB else ["s3://bucket/run"])):
        check(job, options, run_dir)


def test_an_evaluation_of_an_endpoint_needs_no_folder():
    options = pipeline.parse(["--evaluate.endpoint", "http://127.0.0.1:8000/v1"]).evaluate
    assert not evaluate.JOB.needs_folder(options)
