"""Every command answers `--help` without loading what only a run needs."""

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"
COMMANDS = sorted(
    path.stem for path in JOBS.glob("[a-z]*.py") if '__name__ == "__main__"' in path.read_text() and path.stem != "cli"
)
HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "pyarrow.dataset", "matplotlib", "sklearn", "pandas")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name: str):
    code = f"""
import runpy, sys
sys.argv = ["jobs.{name}", "--help"]
try:
    runpy.run_module("jobs.{name}", run_name="__main__", alter_sys=True)
except SystemExit as exit_:
    assert not exit_.code, exit_.code
heavy = [module for module in {HEAVY!r} if module in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--run-dir" in done.stdout or "--preset" in done.stdout
