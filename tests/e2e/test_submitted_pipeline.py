"""The whole recipe at toy size, as users run it: `ray job submit` against a cluster that grows from its head alone.

In each stage that works on worker nodes one of them is lost, and the stage goes on. The job is stopped while the model
is trained, the driver is killed while it is evaluated; the same command, submitted again, goes on from there.
"""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.dataset as ds
import pytest
from ray_cluster import Cluster, cluster, processes

Result = TypeVar("Result")
STAGES = ("collect", "distill", "featurize", "select", "train", "evaluate", "report")
BOUND_S = 1500  # no measurement: only to end at all when nothing goes on
POLL_S, STATUS_S = 0.05, 2
STEPS = 8
# Settings and questions; then the tuned model in words.
NUM_ANSWERS = {"base": 5 * 4, "tuned": 4 * 4 + 4 * 4}
TOY = {
    "--collect.num-questions": "120",
    "--collect.num-test": "2",
    "--select.size": "16",
    "--train.epochs": "2",
    # On two nodes.
    "--train.workers": "2",
    "--train.threads-per-worker": "1",
    "--train.save-steps": "1",
    "--evaluate.num-questions": "4",
    "--evaluate.budgets": "4 16",
    "--evaluate.natural-max-tokens": "48",
    # More than half a node: each model stands on a node of its own.
    "--evaluate.serve.num-cpus": "0.6",
}


@pytest.mark.timeout(2 * BOUND_S)
def test_a_pipeline_on_a_cluster_that_grows_survives_what_it_loses_and_ends_with_a_report(tmp_path: Path):
    run_dir = tmp_path / "run"
    with cluster(tmp_path) as ray:
        assert not ray.worker_nodes()
        lose_nodes_and_stop(ray, "first", run_dir)
        before = manifests(run_dir)
        assert set(before) == {"questions", "traces", "features", "selection"}
        lose_the_driver(ray, "second", run_dir)
        kept, trained = answers(run_dir), manifests(run_dir)
        assert {name: trained[name] for name in before} == before
        log = lose_a_node_and_end(ray, "third", run_dir)
        ray.shrink(BOUND_S)
    for stage in ("collect", "distill", "featurize", "select", "train"):
        assert f"{stage}: up to date" in log
    assert {name: manifests(run_dir)[name] for name in trained} == trained
    assert str(run_dir / "report" / "report.html") in log
    assert all(word in log for word in (*STAGES, "control", "scaling", "performance", "natural end"))
    check_report(run_dir, kept)
    assert not list((run_dir / "_scratch").iterdir())


def pipeline(run_dir: Path) -> list[str]:
    flags = [word for name, value in TOY.items() for word in (name, *value.split())]
    return ["python", "-m", "jobs.pipeline", "--preset", "laptop", "--run-dir", str(run_dir), *flags]


def lose_nodes_and_stop(ray: Cluster, job: str, run_dir: Path) -> None:
    """A node is lost in distill, in featurize and in train; the training goes on, and its job is stopped."""
    ray.submit(job, *pipeline(run_dir))
    lose_node(ray, job, run_dir / "traces", "MapBatches(TeacherWorker)")
    lose_node(ray, job, run_dir / "features", "MapBatches(Solver)")
    until(lambda: num_steps(run_dir), ray, job)
    lose_node(ray, job, run_dir / "checkpoint", "RayTrainWorker")
    kept = num_steps(run_dir)
    until(lambda: num_steps(run_dir) > kept, ray, job)
    ray.stop(job)
    log = ray.logs(job)
    assert ray.status(job) == "STOPPED", log
    assert 0 < log.find("waiting for the cluster to grow") < log.find("[1/7] collect"), log
    assert kept < num_steps(run_dir) < STEPS, log
    assert f"train: stopped by SIGTERM after step {num_steps(run_dir)}" in log


def lose_the_driver(ray: Cluster, job: str, run_dir: Path) -> None:
    """The training goes on from where it was stopped; the driver is lost while the models are evaluated, and the nodes
    that they stand on go.
    """
    ray.submit(job, *pipeline(run_dir))
    until(lambda: answers(run_dir), ray, job)
    drivers = processes("jobs.pipeline", str(run_dir))
    assert drivers
    for driver in drivers:
        driver.kill()
    assert ray.wait(job, BOUND_S) == "FAILED"
    ray.shrink(BOUND_S)  # what it has deployed holds no node
    assert not (run_dir / "generations" / "_manifest.json").exists()


def lose_a_node_and_end(ray: Cluster, job: str, run_dir: Path) -> str:
    """A node is lost while the models are evaluated, and the job ends all the same; what following it shows."""
    kept = len(answers(run_dir))
    ray.submit(job, *pipeline(run_dir))
    until(lambda: len(answers(run_dir)) > kept, ray, job)
    lose_node(ray, job, run_dir / "generations", "ServeReplica", "engine-tuned")
    assert sum(row["model"] == "tuned" for row in answers(run_dir)) < NUM_ANSWERS["tuned"]
    log = ray.follow(job, BOUND_S)
    assert ray.wait(job, BOUND_S) == "SUCCEEDED", log
    return log


def lose_node(ray: Cluster, job: str, output: Path, *words: str) -> None:
    """Kill the node of the worker whose name holds `words`, before its stage has written `output`."""
    worker, *_ = until(lambda: ray.processes("ray::", *words), ray, job)
    assert not (output / "_manifest.json").exists()
    ray.lose_node_of(worker)


def until(happened: Callable[[], Result], ray: Cluster, job: str) -> Result:
    """What `happened` returns as soon as that is true; the job has to run until then."""
    deadline, looked = time.monotonic() + BOUND_S, 0.0
    while not (found := happened()):
        time.sleep(POLL_S)
        if time.monotonic() - looked > STATUS_S:
            looked = time.monotonic()
            assert looked < deadline and ray.status(job) in ("PENDING", "RUNNING"), ray.logs(job)
    return found


def num_steps(run_dir: Path) -> int:
    """Steps that the last committed checkpoint of the training holds."""
    committed = "".join(path.read_text() for path in run_dir.glob("_scratch/train-*/workers/checkpoint_manager*.json"))
    return max(map(int, re.findall(r"step-(\d+)", committed)), default=0)


def answers(run_dir: Path) -> list[dict[str, Any]]:
    """What the evaluation that runs has written down."""
    lines = [line for path in run_dir.glob("_scratch/evaluate-*/*.jsonl") for line in path.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def manifests(run_dir: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(run_dir.glob("*/_manifest.json"))}


def check_report(run_dir: Path, kept: list[dict[str, Any]]) -> None:
    metrics = json.loads((run_dir / "report" / "metrics.json").read_text())
    assert list(metrics["stages"]) == list(STAGES[:-1])
    generations = ds.dataset(sorted(str(path) for path in (run_dir / "generations").glob("*.parquet"))).to_table()
    rows = generations.to_pylist()
    assert {name: sum(row["model"] == name for row in rows) for name in NUM_ANSWERS} == NUM_ANSWERS
    assert kept and {timed(row) for row in kept} <= {timed(row) for row in rows}
    trained = json.loads((run_dir / "checkpoint" / "_manifest.json").read_text())
    assert trained["facts"]["steps"] == STEPS
    curve = json.loads((run_dir / "checkpoint" / trained["facts"]["loss_curve"]).read_text())
    assert [record["step"] for record in curve] == list(range(1, STEPS + 1))
    for model in ("base", "tuned"):
        numbers = metrics["models"][model]
        assert numbers["control_pct"] == 100
        assert numbers["natural"]["max_thinking_tokens"] <= 48
        assert [point["budget"] for point in numbers["points"]] == [4, 16]
        assert all(point["max_thinking_tokens"] <= point["budget"] for point in numbers["points"])
    page = (run_dir / "report" / "report.html").read_text()
    assert "<mark>" in page and "Final Answer:" in page


def timed(row: dict[str, Any]) -> tuple[Any, ...]:
    """An answer and how long it took, which a second one to the same question does not do again."""
    return tuple(row[name] for name in ("model", "setting", "question_id", "sample", "latency_s"))
