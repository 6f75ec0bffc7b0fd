"""Benchmarks end with exit code 1 when a bound is missed, and measure all that they are for."""

import json
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serve.app import AppOptions

FOLDER = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str) -> ModuleType:
    spec = spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = module = module_from_spec(spec)  # where dataclasses look for it
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


def forcing(case: str, requests: int, **medians: float) -> dict[str, Any]:
    peer = "rounds" if case == "rounds" else "plain"
    ratios = {f"{way.replace('_', '-')} / {peer}": {"median": median} for way, median in medians.items()}
    return {"case": case, "requests": requests, "ratios": ratios}


@pytest.mark.parametrize(
    ("line", "missed"),
    [
        (forcing("cap", 1, in_engine=0.97, segments=0.5), []),
        (forcing("cap", 8, in_engine=0.969, segments=1), ["cap, 8 requests: in-engine / plain 0.969"]),
        (forcing("wait", 32, in_engine=0.97, segments=0.9), []),
        (forcing("wait", 32, in_engine=0.9, segments=0.8), ["wait, 32 requests: in-eng", "wait, 32 requests: segm"]),
        (forcing("rounds", 32, in_engine=1.5, segments=1.5), []),
        (forcing("rounds", 32, in_engine=1.6, segments=1.4), ["rounds, 32 requests: segments / rounds 1.4"]),
        (forcing("rounds", 2, in_engine=1, segments=1), []),
    ],
)
def test_forcing(line: dict[str, Any], missed: list[str]):
    found = loaded("forcing_speed").missed(line)
    assert len(found) == len(missed) and all(map(str.startswith, found, missed)), found


@pytest.mark.parametrize(
    ("speed", "added", "missed"),
    [(0.95, 15, []), (0.94, 15, ["32 streams: 0.94"]), (1, 15.1, ["1 streams: first token 15.1 ms later"])],
)
def test_http(speed: float, added: float, missed: list[str]):
    alone = {"concurrency": 1, "tokens_per_s_ratio": 0.5, "added_first_token_ms": added}
    many = {"concurrency": 32, "tokens_per_s_ratio": speed, "added_first_token_ms": 90.0}
    found = loaded("http_speed").missed([many, alone])
    assert len(found) == len(missed) and all(map(str.startswith, found, missed)), found


def test_both_servers_fit_on_one_gpu():
    module = loaded("http_speed")
    served = AppOptions.model_validate(module.application(Path("/model"), "gpu"))
    command = module.peer_command(Path("/model"), "gpu", "bfloat16", 8000)
    share = float(command[command.index("--gpu-memory-utilization") + 1])
    assert served.engine.gpu_memory_utilization == share and 2 * share <= 0.9
    assert served.engine.kv_cache_gib is None and "--kv-cache-memory-bytes" not in command


def test_malformed_requests_need_schemathesis():
    start = "import importlib.util as util; util.find_spec = lambda name: None; import http_abuse; http_abuse.main()"
    found = subprocess.run([sys.executable, "-c", start], cwd=FOLDER, capture_output=True, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1) and "needs schemathesis" in found.stderr


def test_make_runs_all_and_gives_the_extra_to_those_that_need_it():
    command = ["make", "-n", "-o", ".venv/.ready", "bench"]  # the project's environment counts as made
    said = subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=True).stdout
    runs = {name: python for python, name in re.findall(r"(\S+/python) tests/benchmarks/(\w+)\.py", said)}
    assert set(runs) == {path.stem for path in FOLDER.glob("*.py")}
    extra = {name for name, python in runs.items() if python == ".venv/.bench/bin/python"}
    assert extra == {"http_abuse", "lm_eval_client", "selection_speed"}
