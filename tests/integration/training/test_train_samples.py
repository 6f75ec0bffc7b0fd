"""Held-out losses, samples and measured straggling of several workers that hold the weights together."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_cases import write_model, write_selection

from jobs.ray_session import ray_session
from jobs.runner import execute
from jobs.train import JOB
from jobs.train_options import TrainOptions


@pytest.fixture(scope="module", autouse=True)
def ray():
    with ray_session():
        yield


def options_of(model: Path, **more: Any) -> TrainOptions:
    same = {"batch_size": 8, "learning_rate": 1e-2, "block_size": 256, "threads_per_worker": 1, "cpus_per_worker": 0.5}
    return TrainOptions.model_validate(
        {**same, "model": str(model), "workers": 2, "zero_stage": 3, "precision": "fp32", **more}
    )


def test_workers_that_hold_the_weights_together_take_held_out_losses_and_samples(tmp_path):
    write_selection(tmp_path, 22)
    options = options_of(
        write_model(tmp_path / "model"),
        epochs=3,
        held_out=4,
        samples=2,
        sample_tokens=6,
        packing=True,
        micro_batch_tokens=500,
        sequence_parallel=2,
        hardware={"tokens_per_s": 1000, "usd_per_hour": 3600},
    )
    manifest = execute(JOB, options, str(tmp_path))
    records = json.loads((tmp_path / "checkpoint" / "loss.json").read_text())
    told = [record for record in records if "held_out_loss" in record]
    assert [record["step"] for record in told] == [3, 6, 9]
    assert told[-1]["held_out_loss"] < told[0]["held_out_loss"]
    assert all(len(record["samples"]) == 2 and record["samples"][0]["text"] for record in told)
    # What is generated in between changes nothing about the training.
    assert all(a["loss"] > 0 for a in records) and records[-1]["loss"] < records[0]["loss"]
    for record in records:
        assert 0.5 <= record["straggling"] <= 1 and record["slowest_rank"] in (0, 1)
    facts = manifest.facts
    assert facts["billed_seconds"] > facts["train_seconds"] > 0
    assert facts["billed_worker_hours"] == pytest.approx(2 * facts["billed_seconds"] / 3600, rel=1e-2)
    assert manifest.cost_usd == pytest.approx(facts["billed_worker_hours"] * 3600, rel=1e-2)


def differ_and_generate(config: dict[str, Any]) -> None:
    """Rank 0 ends its answer at the first token, whichever it is; rank 1 goes on."""
    import ray.train

    from actors.train_worker import Worker

    context = ray.train.get_context()
    worker = Worker(config["task"], context.get_world_rank(), context.get_world_size())
    all_tokens = list(range(worker.engine.module.model.config.vocab_size))
    worker.task = replace(worker.task, stop_ids=all_tokens if worker.rank == 0 else [0])
    samples = worker.samples()
    (Path(config["out"]) / f"{worker.rank}.json").write_text(json.dumps(samples))
    worker.train_step(0)


@pytest.mark.timeout(300)  # workers that wait for each other would do so for ever
def test_ranks_that_answer_differently_do_not_wait_for_each_other(tmp_path):
    from ray import cloudpickle
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from test_train_mathematics import task_of
    from training_cases import examples_of

    from s1.artifacts import Artifact, Manifest

    write_selection(tmp_path, 22)
    options = options_of(write_model(tmp_path / "model"), samples=1, sample_tokens=4)
    for name in ("examples", "held_out"):
        with Artifact(str(tmp_path / name)).staging() as staging:
            staging.write_table(examples_of(options, str(tmp_path)))
            staging.commit(Manifest("train", "f" * 16, {}, {}, "", rows_in=22, rows_out=22))
    task = replace(task_of(options, tmp_path), held_out=str(tmp_path / "held_out"))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    TorchTrainer(
        differ_and_generate,
        train_loop_config={"task": task, "out": str(tmp_path)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            storage_path=str(tmp_path / "out"),
            worker_runtime_env={"env_vars": {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}},
        ),
    ).fit()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(first[0]["text"]) < len(second[0]["text"])
