from pathlib import Path

import pytest

from jobs.ray_session import run_folder

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def test_a_relative_folder_stays_relative_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SUBMITTED, raising=False)
    assert run_folder("runs/laptop") == "runs/laptop"


def test_a_submitted_job_does_not_write_into_the_copy_that_is_thrown_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SUBMITTED, "{}")
    assert run_folder("runs/laptop") == str(Path.home() / "runs" / "laptop")
    for named in ("/mnt/runs", "~/runs", "s3://bucket/runs"):
        assert run_folder(named) == named
