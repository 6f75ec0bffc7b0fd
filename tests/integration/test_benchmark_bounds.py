"""Benchmarks end with exit code 1 when a bound is missed, and measure all that they are for."""

import json
import os
import re
import subprocess
import sys
import tomllib
from argparse import Namespace
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serve.options import AppOptions

FOLDER = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str) -> ModuleType:
    spec = spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
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
    monkeypatch.setattr(module, "NEVER_ENDS", "*" * 100)
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


def selected(num_rows: int, **more: object) -> dict[str, object]:
    measured = {"seconds": 1.0, "cpu_seconds": num_rows / 59_000, "peak_gb": 1.0}
    return {"method": "k_center", "rows": num_rows, **measured, **more}


@pytest.mark.parametrize(
    ("large", "missed"),
    [
        ({}, []),
        ({"cpu_seconds": 1.49 * 1e6 / 59_000}, []),
        ({"cpu_seconds": 1.51 * 1e6 / 59_000}, ["k_center, 1000000 rows: 1.51 times the CPU seconds a row of 59000"]),
        ({"seconds": 901}, ["k_center, 1000000 rows: 901 s"]),
        ({"peak_gb": 4.1}, ["k_center, 1000000 rows: 4.1 GB"]),
    ],
)
def test_selection_of_many_rows(large: dict[str, object], missed: list[str]):
    module = loaded("selection_speed")
    found = module.missed_bounds([selected(59_000), selected(59_000, method="dpp"), selected(1_000_000, **large)])
    assert len(found) == len(missed) and all(map(str.startswith, found, missed)), found


@pytest.mark.parametrize(
    ("more", "missed"),
    [
        ({}, []),
        ({"seconds": 900.1}, ["jobs.select, k_center, 1000000 rows: 900.1 seconds"]),
        ({"peak_gb": 6.1}, ["jobs.select, k_center, 1000000 rows: 6.1 peak_gb"]),
        ({"rows": 59_000, "peak_gb": 6.1}, []),
    ],
)
def test_the_job_select(more: dict[str, object], missed: list[str]):
    run = {"job": "k_center", "rows": 1_000_000, "seconds": 900.0, "peak_gb": 6.0}
    found = loaded("selection_speed").missed_by_job(run | more)
    assert len(found) == len(missed) and all(map(str.startswith, found, missed)), found


DECONTAMINATED = {"normalise": True, "same_verdicts": True, "seconds_ours": 3.0, "added_mb_ours": 150}


@pytest.mark.parametrize(
    ("more", "missed"),
    [
        ({}, []),
        ({"seconds_ours": 3.01}, ["3.01 s, at most 3.0"]),
        ({"added_mb_ours": 151}, ["151 MB added, at most 150"]),
        ({"same_verdicts": False}, ["other verdicts"]),
    ],
)
def test_decontamination(more: dict[str, object], missed: list[str]):
    found = loaded("decontamination").missed_bounds(DECONTAMINATED | more)
    assert len(found) == len(missed) and all(map(str.startswith, found, missed)), found


@pytest.mark.parametrize(
    ("num_found", "mode", "num_missed"), [(34, (8, True, 0.0), 0), (33, (8, True, 0.0), 1), (19, (8, False, 0.0), 0)]
)
def test_near_copies(num_found: int, mode: tuple[int, bool, float], num_missed: int):
    assert len(loaded("decontamination").too_few_near_copies(num_found, mode)) == num_missed


@pytest.mark.parametrize(("peak_gb", "num_missed"), [(6.0, 0), (6.01, 1)])
def test_memory_of_a_whole_curation(monkeypatch: pytest.MonkeyPatch, peak_gb: float, num_missed: int):
    monkeypatch.syspath_prepend(FOLDER)  # as when it runs: it takes its questions from another benchmark
    jobs = {"collect": {"seconds": 1.0, "peak_gb": 0.5}, "featurize": {"seconds": 2.0, "peak_gb": peak_gb}}
    found = loaded("curation_memory").missed_bounds(jobs)
    assert len(found) == num_missed and all("featurize: " in line for line in found)


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


KILLED = {
    "table": "complete",
    "paid_twice": 5,
    "at_kill": 5,
    "after_kill": 3,
    "at_end": 5,
    "allowed": 8,
    "late_requests": 0,
    "processes_left": [],
    "hung": False,
}


@pytest.mark.parametrize(
    ("more", "good"),
    [
        ({}, True),
        ({"at_end": 8, "paid_twice": 8}, True),
        ({"at_end": 8, "paid_twice": 8, "after_kill": 2}, False),
        ({"paid_twice": 6}, False),  # one of them was on disk
        ({"at_end": 9}, False),
        ({"table": "79 of 80 rows"}, False),
        ({"late_requests": 1}, False),
        ({"processes_left": ["raylet"]}, False),
        ({"hung": True}, False),
    ],
)
def test_teacher_kills(more: dict[str, Any], good: bool):
    assert loaded("teacher_kills").is_good(KILLED | more) is good


def asked(system: str, rate: float, share: float = 0.1) -> dict[str, Any]:
    return {"system": system, "share": share, "good_answers_per_minute": rate}


@pytest.mark.parametrize(
    ("results", "begins"),
    [
        ({"ours": asked("ours", 500, 0.95), "plain": asked("asyncio", 499), "ray": asked("Ray", 80)}, []),
        ({"ours": asked("ours", 500, 0.94), "plain": asked("asyncio", 400)}, ["0.94 of the limit used"]),
        (
            {"ours": asked("ours", 400, 1.0), "plain": asked("asyncio", 400), "ray": asked("Ray", 401)},
            ["400 good answers a minute, asyncio gives 400", "400 good answers a minute, Ray gives 401"],
        ),
        ({"plain": asked("asyncio", 400), "ray": asked("Ray", 0.0)}, []),
    ],
)
def test_teacher_throughput(results: dict[str, Any], begins: list[str]):
    found = loaded("teacher_throughput").missed(results)
    assert len(found) == len(begins) and all(map(str.startswith, found, begins)), found


@pytest.mark.parametrize(
    ("arguments", "together", "apart", "num_missed"),
    [((500, 10), 1.9, 2.5, 0), ((500, 10), 2.0, 2.5, 1), ((5000, 10), 2.0, 2.5, 0), ((500, 10), 1.9, 1.8, 1)],
)
def test_bootstrap(arguments: tuple[int, int], together: float, apart: float, num_missed: int):
    options = Namespace(questions=arguments[0], runs=arguments[1], resamples=10_000)
    assert len(loaded("bootstrap_speed").missed_bounds(options, together, apart)) == num_missed


@pytest.mark.parametrize(
    ("budget", "completions", "num_missed"),
    [
        (16, {0.0: 2, 16.0: 1, 32.0: 0}, 0),
        (16, {0.0: 2, 32.0: 1, 16.0: 0}, 1),
        (None, {0.0: 2, 32.0: 1}, 0),
        (None, {0.0: 2}, 1),
    ],
)
def test_lm_eval(budget: int | None, completions: dict[float, int], num_missed: int):
    assert len(loaded("lm_eval_client").missed_bounds(budget, 3, Counter(completions))) == num_missed


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


def test_trackers_need_the_packages_of_the_services():
    start = "import importlib.util as util, trackers; util.find_spec = lambda name: None; trackers.main()"
    found = subprocess.run([sys.executable, "-c", start], cwd=FOLDER, capture_output=True, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1) and "needs mlflow and wandb" in found.stderr


def test_make_runs_all_and_gives_the_extra_to_those_that_need_it():
    command = ["make", "-n", "-o", ".venv/.ready", "bench"]  # the project's environment counts as made
    said = subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=True).stdout
    runs = {name: python for python, name in re.findall(r"(\S+/python) tests/benchmarks/(\w+)\.py", said)}
    assert set(runs) == {path.stem for path in FOLDER.glob("*.py")}
    extra = {name for name, python in runs.items() if python == ".venv/.bench/bin/python"}
    assert extra == {"http_abuse", "lm_eval_client", "selection_speed", "trackers", "training_speed"}


def test_a_training_that_starts_over_after_a_kill_is_noticed():
    missed = loaded("training_kills").missed_bounds
    kills = [
        {"kind": "worker", "committed": 5, "starts_before": 1},
        {"kind": "driver", "committed": 20, "starts_before": 2},
    ]
    assert not missed(kills, [0, 5, 20], 1.0, 1.0)
    (line,) = missed(kills, [0, 5, 0], 1.0, 1.0)[1:]
    assert "began after 0 steps" in line and "20" in line and "driver" in line
    assert len(missed(kills, [0, 5, 20, 15], 1.0, 1.0)) == 1  # a later attempt goes back
    assert len(missed(kills, [0, 5], 1.0, 1.0)) == 1  # nothing was said of the last one
    assert len(missed(kills, [0, 5, 20], 1.0, 1.002)) == 1


SPEED = {"precision": "fp32", "ratio": 1.31, "rounds": [{"largest_difference_of_losses": 9e-4}]}


@pytest.mark.parametrize(
    ("more", "num_missed"),
    [
        ({}, 0),
        ({"ratio": 1.29}, 1),
        ({"rounds": [{"largest_difference_of_losses": 1e-4}, {"largest_difference_of_losses": 2e-3}]}, 1),
        ({"rounds": [{"largest_difference_of_losses": 2e-3}], "precision": "bf16"}, 0),
    ],
)
def test_training_speed(more: dict[str, object], num_missed: int):
    assert len(loaded("training_speed").missed_bounds(SPEED | more)) == num_missed


def test_training_speed_says_first_that_the_peer_is_missing():
    script = [sys.executable, "-c", "import sys, training_speed; sys.modules['trl'] = None; training_speed.main()"]
    found = subprocess.run(script, cwd=FOLDER, capture_output=True, text=True)
    peer = loaded("training_speed").PEER
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and peer in found.stderr, found.stderr
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]
    assert peer in project["optional-dependencies"]["bench"]


WORKERS = {
    "workers_per_node": [8, 8],
    "peak_gib_of_all_workers": 9.0,
    "peak_gib_of_fullest_worker": [0.4, 0.5, 0.6, 0.6],
    "largest_difference_from_one_worker": 1e-7,
}


@pytest.mark.parametrize(
    ("more", "num_missed"),
    [
        ({}, 0),
        ({"workers_per_node": [8, 7]}, 1),
        ({"workers_per_node": [16]}, 1),
        ({"peak_gib_of_all_workers": 12.5}, 1),
        ({"peak_gib_of_fullest_worker": [0.4, 0.5, 0.6, 0.7]}, 1),
        ({"largest_difference_from_one_worker": float("nan")}, 1),
    ],
)
def test_training_workers(more: dict[str, object], num_missed: int):
    assert len(loaded("training_workers").missed_bounds(WORKERS | more, 2, 8)) == num_missed


def gpu_case(parameters: int, **more: object) -> dict[str, object]:
    measured = {"mfu": 0.5, "predicted_gib": 20.0, "measured_gib": 20.0, "predicted_over_measured": 1.0}
    return {"parameters": parameters, "tokens": 16384, **measured, **more}


NO_MEMORY = {"parameters": 3, "tokens": 32768, "out_of_memory": True, "device_gib": 80.0}


@pytest.mark.parametrize(
    ("first", "last", "num_missed"),
    [
        ({}, gpu_case(3), 0),
        ({"mfu": 0.44}, gpu_case(3), 1),
        ({"mfu": None}, gpu_case(3), 1),
        ({"predicted_over_measured": 0.89}, gpu_case(3), 1),
        ({}, gpu_case(3, predicted_over_measured=1.11), 1),
        ({}, {**NO_MEMORY, "predicted_gib": 90.0}, 1),  # only two shapes are measured
        ({}, {**NO_MEMORY, "predicted_gib": 70.0}, 2),  # and this one was to fit
    ],
)
def test_training_gpu(first: dict[str, object], last: dict[str, object], num_missed: int):
    assert len(loaded("training_gpu").missed_bounds([gpu_case(1, **first), gpu_case(2), last])) == num_missed


def test_what_needs_a_gpu_is_left_out_without_one():
    script = [sys.executable, str(FOLDER / "training_gpu.py")]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(script, env=hidden, capture_output=True, text=True)
    assert found.returncode == 0 and found.stderr.startswith("left out: no GPU"), found.stderr
