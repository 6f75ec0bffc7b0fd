"""The whole recipe at toy size, as users run it: `ray job submit` against a cluster that `ray start` made.

The driver is killed while the model is trained and again while it is evaluated; the same command, submitted again, goes
on from there.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from ray_cluster import STATUS_S, Cluster, cluster, processes

STAGES = ("collect", "distill", "featurize", "select", "train", "evaluate", "report")
BOUND_S = 600  # no measurement: only to end at all when nothing goes on
TOY = {
    "--collect.num-questions": "120",
    "--collect.num-test": "2",
    "--select.size": "16",
    "--train.save-steps": "1",
    "--evaluate.num-questions": "4",
    "--evaluate.budgets": "4 16",
    "--evaluate.natural-max-tokens": "48",
}


def pipeline(run_dir: Path) -> list[str]:
    flags = [word for name, value in TOY.items() for word in (name, *value.split())]
    return ["python", "-m", "jobs.pipeline", "--preset", "laptop", "--run-dir", str(run_dir), *flags]


@pytest.mark.timeout(4 * BOUND_S)
def test_a_pipeline_that_is_killed_twice_goes_on_and_ends_with_a_report(tmp_path: Path):
    run_dir = tmp_path / "run"
    with cluster(tmp_path) as ray:
        ray.submit("first", *pipeline(run_dir))
        until(lambda: list(run_dir.glob("_scratch/train-*")), ray, "first", seconds=BOUND_S)
        before = manifests(run_dir)
        kill_driver(ray, "first", run_dir)
        assert set(before) == {"questions", "traces", "features", "selection"}

        ray.submit("second", *pipeline(run_dir))
        until(lambda: num_answers(run_dir) > 0, ray, "second", seconds=BOUND_S)
        kill_driver(ray, "second", run_dir)
        kept = num_answers(run_dir)
        assert not (run_dir / "generations" / "manifest.json").exists()

        ray.submit("third", *pipeline(run_dir))
        status, log = ray.wait("third", BOUND_S), ray.logs("third")
    assert status == "SUCCEEDED", log
    for stage in ("collect", "distill", "featurize", "select", "train"):
        assert f"{stage}: up to date" in log
    assert {name: manifests(run_dir)[name] for name in before} == before
    assert kept > 0
    assert str(run_dir / "report" / "report.html") in log
    assert all(word in log for word in (*STAGES, "control", "scaling", "performance", "natural end"))
    check_report(run_dir)
    assert not list((run_dir / "_scratch").iterdir())


def num_answers(run_dir: Path) -> int:
    return sum(file.read_text().count("\n") for file in run_dir.glob("_scratch/evaluate-*/*.jsonl"))


def until(happened: Callable[[], object], ray: Cluster, job: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    looked = time.monotonic()
    while not happened():
        time.sleep(0.2)
        if time.monotonic() - looked > STATUS_S:
            looked = time.monotonic()
            assert looked < deadline and ray.status(job) in ("PENDING", "RUNNING"), ray.logs(job)


def kill_driver(ray: Cluster, job: str, run_dir: Path) -> None:
    """SIGKILL to the process of the pipeline itself; its workers are Ray's."""
    drivers = processes("jobs.pipeline", str(run_dir))
    assert drivers
    for pid in drivers:
        os.kill(pid, signal.SIGKILL)
    assert ray.wait(job, 60) == "FAILED"


def manifests(run_dir: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(run_dir.glob("*/manifest.json"))}


def check_report(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "report" / "metrics.json").read_text())
    assert list(metrics["stages"]) == list(STAGES[:-1])
    generations = ds.dataset(sorted(str(path) for path in (run_dir / "generations").glob("*.parquet"))).to_table()
    # Models, settings, questions; then the tuned model in words.
    assert generations.num_rows == 2 * 4 * 4 + 4 * 4
    trained = json.loads((run_dir / "checkpoint" / "manifest.json").read_text())
    assert trained["facts"]["steps"] == 4
    for model in ("base", "tuned"):
        numbers = metrics["models"][model]
        assert numbers["control_pct"] == 100
        assert numbers["natural"]["max_thinking_tokens"] <= 48
        assert [point["budget"] for point in numbers["points"]] == [4, 16]
        assert all(point["max_thinking_tokens"] <= point["budget"] for point in numbers["points"])
    page = (run_dir / "report" / "report.html").read_text()
    assert "<mark>" in page and "Final Answer:" in page
