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
from s1.training.shapes import KNOWN


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


def test_a_disk_without_room_for_the_checkpoints_is_told_before_the_workers_start(tmp_path):
    larger_than_any = replace(KNOWN["Qwen/Qwen2.5-32B-Instruct"], layers=10**9)
    options = TrainOptions(model="Qwen/Qwen2.5-32B-Instruct", workers=16)
    with pytest.raises(
        UserError, match=r"GiB of disk are there, the training keeps up to \d{9,}.*\(two checkpoints, or"
    ):
        check_disk(options, larger_than_any, tmp_path, tmp_path / "none")
    with pytest.raises(UserError, match=r"\(the trained model\); choose a --run-dir on a larger disk, or go on with"):
        check_disk(options.model_copy(update={"save_steps": 0}), larger_than_any, tmp_path, tmp_path / "none")
    check_disk(options.model_copy(update={"ignore_plan": True}), larger_than_any, tmp_path, tmp_path / "none")


def test_what_an_earlier_attempt_has_left_counts_as_room(tmp_path):
    options = TrainOptions(model="Qwen/Qwen2.5-32B-Instruct", workers=16)
    of = KNOWN["Qwen/Qwen2.5-32B-Instruct"]
    needed = disk_bytes(planned(options, (1,), of).run, saves=True)[0]
    larger = replace(of, layers=math.ceil(of.layers * 1.2 * max(1.0, shutil.disk_usage(tmp_path).free / needed)))
    with pytest.raises(UserError, match="GiB of disk are there"):
        check_disk(options, larger, tmp_path, tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    with (tmp_path / "scratch" / "shard").open("wb") as file:
        file.truncate(10**13)  # takes no disk
    check_disk(options, larger, tmp_path, tmp_path / "scratch")
