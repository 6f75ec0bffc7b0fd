"""`make clean` removes what set-up and tests have built, never what a run has made or paid for."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_clean_keeps_the_runs(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    paid = tmp_path / "runs" / "s1" / "_ledger" / "part-0.parquet"
    built = [tmp_path / name for name in (".venv/.ready", "s1_on_ray.egg-info/PKG-INFO", "s1/__pycache__/a.pyc")]
    for file in (paid, *built):
        file.parent.mkdir(parents=True)
        file.touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert paid.exists() and not any(file.parent.exists() for file in built)
