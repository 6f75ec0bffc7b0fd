"""However the work is divided, losses and weights are those of a plain loop: every way, step by step, in 32 bits.

So is what is exported of them, in bf16.

The ways run one after the other inside one group of workers, because starting a group takes longer than a training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_cases import examples_of, plain_loop, plain_weights, write_model, write_selection

from actors.train_engine import TrainTask
from jobs.ray_session import ray_session
from jobs.train_options import TrainOptions, known_shape
from s1.artifacts import Artifact, Manifest
from s1.training import schedule

pytestmark = pytest.mark.timeout(900)  # the first test waits for all trainings

PADDED = {"micro_batch_size": 2}
PACKED = {"packing": True, "micro_batch_tokens": 500}
SHARED = {**PACKED, "sequence_parallel": 2}
OFFLOADED = {"activation_checkpointing": True, "offload_activations": True}
LORA = {"lora_rank": 4}
# As many heads of keys as workers that share a sequence, as in the presets for clusters; MODEL has one for two of them.
MODEL, GROUPED = {"model": "model"}, {"model": "grouped"}
# By number of workers; of the 22 examples, the last batch of 8 has 6, which two workers pack and three cannot share.
WAYS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        f"ZeRO-{stage} {name}": {"zero_stage": stage, **way}
        for stage in (1, 2, 3)
        for name, way in (("padded", PADDED), ("packed", PACKED))
    },
    2: {
        f"ZeRO-{stage} {name}": {"zero_stage": stage, **way}
        for stage in (1, 2, 3)
        for name, way in (("padded", PADDED), ("packed", PACKED), ("shared", SHARED))
    }
    | {
        "ZeRO-3 checkpointed": {"zero_stage": 3, **SHARED, "activation_checkpointing": True},
        # Its passes have 269 to 352 tokens.
        "ZeRO-3 long passes checkpointed": {"zero_stage": 3, **SHARED, "recompute_above_tokens": 300},
        "ZeRO-3 offloaded": {"zero_stage": 3, **OFFLOADED},
        "ZeRO-3 shared offloaded": {"zero_stage": 3, **SHARED, **GROUPED, **OFFLOADED},
        "ZeRO-3 secondary shards": {"zero_stage": 3, **PACKED, "secondary_shards": 2},
        "ZeRO-1 LoRA": {"zero_stage": 1, **LORA, **PADDED},
        "ZeRO-2 LoRA": {"zero_stage": 2, **LORA, **SHARED},
        "ZeRO-3 LoRA": {"zero_stage": 3, **LORA, **PACKED, "activation_checkpointing": True},
    },
}

EXPORTED = ("ZeRO-3 shared", "ZeRO-3 LoRA")  # of those of two workers


def train_each(config: dict[str, Any]) -> None:
    """Every task of `config`; rank 0 writes losses and weights into the folder `out`."""
    import deepspeed
    import ray.train

    from actors.train_worker import Worker

    context = ray.train.get_context()
    for name, task in config["tasks"].items():
        worker = Worker(task, context.get_world_rank(), context.get_world_size())
        losses = [worker.train_step(step)["loss"] for step in range(task.steps)]
        named = dict(worker.engine.module.model.named_parameters())
        with deepspeed.zero.GatheredParameters(list(named.values()), enabled=task.zero_stage == 3):
            weights = {key: parameter.detach().clone() for key, parameter in named.items()}
        if worker.rank == 0:
            torch.save((losses, weights), Path(config["out"]) / f"{name}.pt")
        if task.export_folder:
            worker.export()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    write_model(folder / MODEL["model"])
    write_model(folder / GROUPED["model"], kv_heads=2)
    write_selection(folder, 22)
    return folder


def options_of(folder: Path, model: str = MODEL["model"], **more: Any) -> TrainOptions:
    return TrainOptions(
        model=str(folder / model),
        batch_size=8,
        epochs=2,
        learning_rate=1e-2,
        weight_decay=0.5,  # that of the recipe would be less than what is compared
        block_size=256,
        precision="fp32",
        loss_chunk_tokens=40,
        threads_per_worker=1,
        save_steps=0,
        **more,
    )


def task_of(options: TrainOptions, folder: Path, export_folder: str = "") -> TrainTask:
    steps = schedule.num_steps(22, options.batch_size, options.epochs)
    return TrainTask.of(
        options,
        shape=known_shape(options.model),
        examples=str(folder / "examples"),
        held_out=None,
        export_folder=export_folder,
        stop_ids=[0],
        steps=steps,
        warmup_steps=schedule.num_warmup_steps(steps, options.warmup_ratio),
        betas=(options.adam_beta1, options.adam_beta2),
        threads=1,
    )


@pytest.fixture(scope="module")
def trained(folder) -> dict[str, tuple[list[float], dict[str, torch.Tensor]]]:
    """Losses and weights of every way, by number of workers and name."""
    from ray import cloudpickle
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with Artifact(str(folder / "examples")).staging() as staging:
        staging.write_table(examples_of(options_of(folder), str(folder)))
        staging.commit(Manifest("train", "f" * 16, {}, {}, "", rows_in=22, rows_out=22))
    found = {}
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    with ray_session():
        for workers, ways in WAYS.items():
            out = folder / str(workers)
            out.mkdir()
            tasks = {}
            for name, way in ways.items():
                exported = out / "exports" / name
                exported.mkdir(parents=True)
                options = options_of(folder, workers=workers, **way)
                tasks[name] = task_of(options, folder, str(exported) if name in EXPORTED else "")
            environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
            TorchTrainer(
                train_each,
                train_loop_config={"tasks": tasks, "out": str(out)},
                torch_config=TorchConfig(backend="gloo"),
                scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
                run_config=RunConfig(storage_path=str(out), worker_runtime_env={"env_vars": environment}),
            ).fit()
            for name in ways:
                found[f"{workers} {name}"] = torch.load(out / f"{name}.pt")
    return found


@pytest.fixture(scope="module")
def plain(folder) -> Callable[[str, int], tuple[list[float], dict[str, torch.Tensor]]]:
    """The same of the plain loop, by model and rank of LoRA."""

    @cache
    def train(model: str, lora_rank: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        losses, trained = plain_loop(options_of(folder, model, lora_rank=lora_rank), str(folder))
        return losses, {name: parameter.detach() for name, parameter in trained.named_parameters()}

    return train


@pytest.mark.parametrize("way", [f"{workers} {name}" for workers, ways in WAYS.items() for name in ways])
def test_losses_and_weights_are_those_of_a_plain_loop(trained, plain, way):
    workers, _, name = way.partition(" ")
    given = {**MODEL, "lora_rank": 0, **WAYS[int(workers)][name]}
    (losses, weights), (expected_losses, expected) = trained[way], plain(given["model"], given["lora_rank"])
    assert len(losses) == 6 and losses[-1] < losses[0] - (0 if "LoRA" in way else 1)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", EXPORTED)
def test_what_is_exported_is_what_was_trained(trained, folder, way):
    expected = plain_weights(trained[f"2 {way}"][1])
    exported = load_file(folder / "2" / "exports" / way / "model.safetensors")
    assert exported.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(exported[name], weight.bfloat16())
