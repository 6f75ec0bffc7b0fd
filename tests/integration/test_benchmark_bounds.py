"""Benchmarks end with exit code 1 when a bound is missed."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str) -> ModuleType:
    spec = spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("expected", "max_seconds", "code"), [(True, 5.0, 0), (False, 5.0, 1), (True, 0.0, 1)])
def test_grading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bool, max_seconds: float, code: int):
    folder = tmp_path / "grader"
    folder.mkdir()
    case = {"gold": "1", "pred": "Answer: 1", "expected": expected, "origin": "x:1"}
    (folder / "grader_cases.jsonl").write_text(json.dumps(case))
    (folder / "math500_qwen3_answers.json").write_text("[]")
    module = loaded("grading")
    monkeypatch.setattr(module, "HOSTILE", {"stars": "*" * 100})
    monkeypatch.setattr(module, "MAX_SECONDS", max_seconds)
    monkeypatch.setattr(sys, "argv", ["grading.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == code


@pytest.mark.parametrize(("bound", "code"), [("1.0", 0), ("0.0", 1)])
def test_selection_of_one_kind(bound: str, code: int):
    start = f"import selection_speed as module; module.MAX_PEAK_GB[300] = {bound}; module.main()"
    arguments = ["--rows", "300", "--size", "10", "--methods", "k_center"]
    found = subprocess.run([sys.executable, "-c", start, *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert found.returncode == code, found.stderr
    assert json.loads(found.stdout)["method"] == "k_center"
    assert ("missed: k_center, 300 rows: " in found.stderr) == bool(code)
