"""What the job refuses by its plan, before Ray is started."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from training_cases import examples_of, write_model, write_selection

from jobs.runner import execute
from jobs.train import JOB, check_disk
from jobs.train_options import TrainOptions, planned, shape
from s1.errors import UserError
from s1.training import plan as planner
from s1.training.hardware import Hardware
from s1.training.memory import disk_bytes
from s1.training.plan import Training
from s1.training.shapes import KNOWN, ModelShape

QWEN_32B = KNOWN["Qwen/Qwen2.5-32B-Instruct"]


def options_of(model: Path, memory_gib: float, **more) -> TrainOptions:
    hardware = Hardware(tokens_per_s=1000, memory_gib=memory_gib)
    sizes = {"batch_size": 8, "block_size": 256, "workers": 8, "zero_stage": 3}
    return TrainOptions(model=str(model), hardware=hardware, **{**sizes, **more})


def needed_gib(options: TrainOptions, run_dir: Path) -> float:
    lengths = [len(ids) for ids in examples_of(options, str(run_dir))["input_ids"]]
    return planner.peak(planned(options, lengths, shape(options.model))).gib


def test_a_training_without_the_memory_is_refused(tmp_path):
    model = write_model(tmp_path / "model")
    write_selection(tmp_path, 22)
    with pytest.raises(UserError, match=r"does not fit, 1\.\d of 1\.0 GiB; no change .*; or go on with --ignore-plan"):
        execute(JOB, options_of(model, 1.0), str(tmp_path))
    assert not ray.is_initialized()


def test_so_is_one_whose_fewest_workers_lack_it(tmp_path):
    model = write_model(tmp_path / "model")
    write_selection(tmp_path, 22)
    many, one = (needed_gib(options_of(model, 1.0, workers=workers), tmp_path) for workers in (8, 1))
    between = options_of(model, (many + one) / 2, min_workers=1)
    with pytest.raises(UserError, match="does not fit when only 1 of 8 workers can be had"):
        execute(JOB, between, str(tmp_path))
    assert not ray.is_initialized()


def training_of(of: ModelShape, **more: int) -> Training:
    options = TrainOptions(model="Qwen/Qwen2.5-32B-Instruct", workers=16, **more)
    return planned(options, (1000,) * 1000, of)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "two checkpoints, or one and the trained model"),
        ({"max_steps": 20}, "a checkpoint and the trained model"),
        ({"save_steps": 0}, "the trained model"),
    ],
)
def test_a_disk_without_room_for_the_checkpoints_is_told_before_the_workers_start(more, says, tmp_path):
    larger_than_any = replace(QWEN_32B, layers=10**9)
    with pytest.raises(
        UserError, match=rf"GiB of disk are there, the training keeps up to \d{{9,}}.* \({says}\); choose"
    ):
        check_disk(training_of(larger_than_any, **more), tmp_path, tmp_path / "none")


def test_the_checkpoint_that_an_earlier_attempt_has_left_counts_as_room(tmp_path):
    needed = disk_bytes(training_of(QWEN_32B).run, 2)[0]
    larger = replace(QWEN_32B, layers=math.ceil(64 * 1.2 * max(1.0, shutil.disk_usage(tmp_path).free / needed)))
    for name in ("workers/step-000020/universal", "workers/removed-step-000001/state", "workers/step-000020/state"):
        with pytest.raises(UserError, match="GiB of disk are there"):
            check_disk(training_of(larger), tmp_path, tmp_path)
        (tmp_path / name).mkdir(parents=True)
        with (tmp_path / name / "shard").open("wb") as file:
            file.truncate(10**13)  # takes no disk
    check_disk(training_of(larger), tmp_path, tmp_path)
