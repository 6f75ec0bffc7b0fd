"""What the job refuses by its plan, before Ray is started."""

from pathlib import Path

import pytest
import ray
from training_cases import examples_of, write_model, write_selection

from jobs.runner import execute
from jobs.train import JOB
from jobs.train_options import TrainOptions, planned, shape
from s1.errors import UserError
from s1.training import plan as planner
from s1.training.hardware import Hardware


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
