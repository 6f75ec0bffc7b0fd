"""`s1 JOB` runs every job by its name."""

import subprocess
import sys
from pathlib import Path

import pytest

import jobs
from jobs import cli
from jobs.__main__ import JOBS, help_text


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs", *arguments], capture_output=True, text=True, timeout=300)


def test_every_job_has_a_name_and_a_line_of_help():
    folder = Path(str(jobs.__path__[0]))
    runnable = {path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(JOBS) == runnable - {"__main__"}
    lines = help_text().splitlines()
    for name in JOBS:
        (line,) = (line.split(maxsplit=1) for line in lines if line.startswith(f"  {name} "))
        assert line[1].endswith(".")


@pytest.mark.parametrize("arguments", [["select", "--size", "7"], ["pipeline", "--select.size", "7"]])
def test_a_job_gets_its_options(arguments: list[str], tmp_path: Path):
    done = ask(*arguments, "--dry-run", "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "  size: 7\n" in done.stdout


def test_help_of_a_job_names_the_presets():
    done = ask("select", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.replace("│", " ").split())
    assert f"--preset STR Values of all options that are not given: {', '.join(cli.presets())}, or a YAML file" in words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["selct"], "error: unknown job 'selct': jobs are "),
        (["select", "--size", "many"], "error: Error parsing --size: "),
        (["select", "--preset", "lap"], "error: unknown preset 'lap': presets are laptop, one-gpu, one-node, s1, s1.1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str):
    done = ask(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(says) and done.stderr.count("\n") == 1
