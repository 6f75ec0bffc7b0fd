"""The same questions through Ray Serve and on Ray Data, to the real model."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from process_tree import below

from jobs.evaluate import JOB
from jobs.evaluation_options import EvaluateOptions
from jobs.ray_session import ray_session
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact, Manifest

QUESTIONS = [f"What is {number} + {number + 3}?" for number in range(11, 16)]
# Longer than the context: counted, and no reason to stop.
QUESTIONS.append("Add up these numbers: " + ", ".join(["17"] * 400))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    rows = [{"question": text, "answer": "25"} for text in QUESTIONS]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Artifact(str(folder / "checkpoint")).staging() as staging:
        config = {"model": "embedded:smollm2-135m-instruct", "template": "s1"}
        staging.commit(Manifest("train", "t", config, {}, "0", 1, 1))
    return folder


@pytest.fixture(scope="module")
def ray():
    with ray_session():
        yield


@pytest.fixture(scope="module")
def served(ray, run_dir: Path) -> list[dict[str, Any]]:
    """Answers through Ray Serve."""
    return evaluate(run_dir)


def evaluate(run_dir: Path, **more: Any) -> list[dict[str, Any]]:
    options = EvaluateOptions.model_validate(
        {
            "models": ("base",),
            "benchmarks": (str(run_dir / "sums.jsonl"),),
            "budgets": (8,),
            "natural_max_tokens": 40,
            "max_answer_tokens": 12,
            "direct": {"max_tokens": 48},
            # In full precision: in bfloat16 the answers depend on what else is in the batch.
            "serve": {"engine": {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 16}},
            **more,
        }
    )
    execute(JOB, options, str(run_dir))
    return Artifact(str(run_dir / "generations")).read(schema.GENERATIONS).to_pylist()


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What does not depend on the way or the time."""
    return [{name: value for name, value in row.items() if name != "latency_s"} for row in rows]


def test_serve_and_ray_data_give_the_same_answers_under_greedy_decoding(served, run_dir: Path):
    offline = evaluate(
        run_dir,
        offline=True,
        parallel={
            "tree": (3,),
            "reward": "s1.evaluation.scorers:few_repetitions",
            "step_tokens": 8,
            "max_steps": 2,
        },
    )
    tree = [row for row in offline if row["method"] == "tree_search"]
    assert len(served) == 4 * len(QUESTIONS)
    assert told([row for row in offline if row not in tree]) == told(served)
    assert any(row["thinking"] for row in served)
    long = [row for row in served if row["question"] == QUESTIONS[-1]]
    assert {(row["ended_by"], row["correct"], row["total_tokens"]) for row in long} == {("overflow", False, 0)}
    direct = [row for row in served if row["setting"] == "direct" and row["ended_by"] != "overflow"]
    assert len(direct) == 5 and all(not row["thinking"] and row["thinking_tokens"] == 0 for row in direct)
    assert {row["ended_by"] for row in direct} <= {None, "length"}
    assert not any(piece["forced"] for row in direct for piece in json.loads(row["segments"]))
    fits = [row for row in tree if row["question"] != QUESTIONS[-1]]
    assert all(row["thinking_tokens"] <= 16 and row["num_tries"] >= 4 for row in fits)


def test_the_answers_of_an_engine_that_dies_are_asked_again(served, run_dir: Path):
    """Its actor goes with it, and Ray Data starts another one."""
    killed: list[int] = []

    def kill_once_something_is_answered() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not killed:
            answered = any(path.stat().st_size for path in run_dir.glob("_scratch/evaluate-*/**/*") if path.is_file())
            if answered and (engines := below("EngineCore")):
                engines[0].kill()
                killed.append(engines[0].pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_once_something_is_answered)
    killer.start()
    # Two at a time, half of them in a task: there is more to do when the first is answered.
    rows = evaluate(run_dir, offline=True, concurrency=2, seed=1)
    killer.join()
    assert killed
    assert told(rows) == told(served)
