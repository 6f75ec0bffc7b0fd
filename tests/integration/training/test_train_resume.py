"""A run that was stopped goes on where it was, however it is continued: no step twice, and the same losses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from process_tree import below
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    ResourceRequestPriority,
    get_or_create_autoscaling_coordinator,
)
from training_cases import last_committed, plain_loop, write_model, write_selection

from actors import checkpoint_index, train_engine
from jobs.ray_session import ray_session
from jobs.runner import execute
from jobs.termination import EXIT_CODE
from jobs.train import JOB
from jobs.train_options import TrainOptions
from s1.errors import UserError

pytestmark = pytest.mark.timeout(900)

STEPS = 48


@pytest.fixture(scope="module")
def ray():
    with ray_session():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory) -> dict[int, list[float]]:
    """Losses of a plain loop, without and with LoRA."""
    folder = tmp_path_factory.mktemp("plain")
    write_selection(folder, 22)
    return {rank: plain_loop(options_of(model, lora_rank=rank), str(folder))[0] for rank in (0, 4)}


def options_of(model: Path, **more: Any) -> TrainOptions:
    same = {"batch_size": 8, "epochs": 16, "learning_rate": 1e-3, "block_size": 256, "precision": "fp32"}
    same |= {"weight_decay": 5.0}  # that of the recipe would be less than what is compared
    how = {"threads_per_worker": 1, "cpus_per_worker": 0.5, "save_steps": 4, "save_in_background": False}
    return TrainOptions(**{**same, **how, "model": str(model), **more})


@contextmanager
def at_the_next_checkpoint(run_dir: Path, do: Callable[[], None]) -> Generator[None]:
    """Does something as soon as what runs in the block has committed a checkpoint."""
    before, ended = last_committed(run_dir), threading.Event()

    def wait_and_do() -> None:
        while last_committed(run_dir) == before:
            if ended.wait(0.02):
                return
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def interrupted(options: TrainOptions, run_dir: Path) -> Path:
    """The checkpoint of a run that is told to go as soon as it has committed one of its own."""
    notice = at_the_next_checkpoint(run_dir, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with notice, pytest.raises(SystemExit) as exit_:
        execute(JOB, options, str(run_dir))
    assert exit_.value.code == EXIT_CODE
    folder = last_committed(run_dir)
    assert folder is not None
    return folder


def records_in(folder: Path) -> list[dict[str, Any]]:
    """What the checkpoint in `folder` says about the steps before it."""
    file = min((folder / train_engine.SHARDS).glob("*model_states.pt"))  # of the first rank
    return torch.load(file, map_location="cpu", weights_only=False)["records"]


def curve(run_dir: Path) -> list[dict[str, Any]]:
    return json.loads((run_dir / "checkpoint" / "loss.json").read_text())


def test_a_run_is_continued_on_more_workers_and_in_less_memory(ray, model, plain, tmp_path, capsys):
    same = {"lora_rank": 4, "zero_stage": 1}
    first = options_of(model, **same, micro_batch_size=4)
    then = options_of(model, **same, workers=2, packing=True, activation_checkpointing=True)
    write_selection(tmp_path, 22)
    stopped = interrupted(first, tmp_path)
    before = records_in(stopped)
    assert 0 < len(before) < STEPS
    of_lost_workers, left = stopped.parent / "step-999999" / train_engine.SHARDS, list[bool]()
    of_lost_workers.mkdir(parents=True)
    with at_the_next_checkpoint(tmp_path, lambda: left.append(of_lost_workers.exists())):
        # As a kill leaves it that comes while it is written.
        (stopped.parent / checkpoint_index.INDEX).write_text('{"checkpoint_results": [{"check')
        execute(JOB, then, str(tmp_path))
    assert left == [False] and "was half-written; going on from its copy" in capsys.readouterr().err
    assert curve(tmp_path)[: len(before)] == before
    losses = [record["loss"] for record in curve(tmp_path)]
    assert losses == pytest.approx(plain[4], rel=1e-4)


def test_an_elastic_run_takes_the_most_workers_that_share_the_batch_equally(ray, model, plain, tmp_path):
    import ray as ray_

    write_selection(tmp_path, 22)
    cpus = ray_.cluster_resources()["CPU"]
    # Room for three of four workers, which cannot share batches of 8.
    options = options_of(model, zero_stage=2, workers=4, min_workers=1, cpus_per_worker=cpus / 3 - 0.05)
    stopped = interrupted(options, tmp_path)
    assert train_engine.num_writers(stopped) == 2
    check_rewriting(shutil.copytree(stopped, tmp_path / "whole"), shutil.copytree(stopped, tmp_path / "broken"))
    # What a driver that was killed had asked for is kept, and this training's to take over.
    hold_all_cpus(f"train-{stopped.parents[1]}")
    # Room for one.
    execute(JOB, options.model_copy(update={"cpus_per_worker": cpus - 0.05}), str(tmp_path))
    losses = [record["loss"] for record in curve(tmp_path)]
    assert losses == pytest.approx(plain[0], rel=1e-4)


def test_a_disk_that_is_full_while_ray_lists_the_checkpoints_is_one_line_and_loses_nothing(
    ray, model, plain, tmp_path, capsys
):
    write_selection(tmp_path, 22)
    options = options_of(model)

    def fill_the_disk() -> None:
        for process in below("TrainController"):
            process.rlimit(psutil.RLIMIT_FSIZE, (10, 10))  # larger than no list

    with at_the_next_checkpoint(tmp_path, fill_the_disk), pytest.raises(UserError, match="cannot write there"):
        execute(JOB, options, str(tmp_path))
    capsys.readouterr()
    execute(JOB, options, str(tmp_path))
    told = capsys.readouterr().err
    assert "was half-written; going on from its copy" in told and "workers begin at step 1 of" not in told
    assert [record["loss"] for record in curve(tmp_path)] == pytest.approx(plain[0], rel=1e-4)


def hold_all_cpus(requester: str) -> None:
    """Reserve them in the name of `requester`, for longer than any test runs."""
    import ray as ray_

    ray_.get(
        get_or_create_autoscaling_coordinator().request_resources.remote(
            requester_id=requester,
            resources=[{"CPU": ray_.cluster_resources()["CPU"]}],
            expire_after_s=3600,
            priority=ResourceRequestPriority.HIGH,
        )
    )


def test_a_training_that_waits_for_workers_goes_when_it_is_told(ray, model, tmp_path):
    import ray as ray_

    write_selection(tmp_path, 22)
    hold_all_cpus("somebody else")
    flags = ["--run-dir", str(tmp_path), "--model", str(model), "--workers", "2", "--min-workers", "1"]
    environment = {**os.environ, "RAY_ADDRESS": ray_.get_runtime_context().gcs_address}
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "jobs.train", *flags], env=environment, stderr=file)
    deadline = time.monotonic() + 300
    while "starting workers" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == EXIT_CODE
    assert log.read_text().endswith(
        "train: stopped by SIGTERM while no workers were there; run the same command again to go on\n"
    )
    cancelled = get_or_create_autoscaling_coordinator().cancel_request.remote(requester_id="somebody else")
    ray_.get(cancelled)


def check_rewriting(whole: Path, broken: Path) -> None:
    """Shards are rewritten for another number of workers once; what cannot be rewritten is said and leaves nothing."""
    of_a_lost_worker = whole / f"{train_engine.UNIVERSAL}.part.lost" / "zero"
    of_a_lost_worker.mkdir(parents=True)
    train_engine.make_universal(whole)

    def files() -> dict[str, int]:
        made = whole / train_engine.UNIVERSAL
        return {str(file.relative_to(made)): file.stat().st_mtime_ns for file in made.rglob("*")}

    before = files()
    assert any(name.endswith("exp_avg.pt") for name in before) and not list(whole.glob("*.part*"))
    train_engine.make_universal(whole)
    assert files() == before

    for file in (broken / train_engine.SHARDS).glob("*model_states.pt"):
        file.unlink()
    with pytest.raises(RuntimeError, match=r"(?s)broken: not rewritten for another number of workers: .*mp_rank"):
        train_engine.make_universal(broken)
    assert not (broken / train_engine.UNIVERSAL).exists()


def test_an_export_that_fails_starts_nothing_over(ray, model, tmp_path):
    from ray.train import TrainingFailedError

    write_selection(tmp_path, 22)
    own, away = shutil.copytree(model, tmp_path / "model"), tmp_path / "away"
    away.mkdir()
    options = options_of(own, save_steps=100, max_failures=0)  # more than there are steps
    ended = threading.Event()

    def lose_the_tokenizer() -> None:
        while not list(tmp_path.glob("_scratch/*/billed.json")):  # the workers are there
            if ended.wait(0.02):
                return
        for file in own.glob("tokenizer*"):
            file.rename(away / file.name)

    thread = threading.Thread(target=lose_the_tokenizer)
    thread.start()
    try:
        with pytest.raises((TrainingFailedError, UserError)):
            execute(JOB, options, str(tmp_path))
    finally:
        ended.set()
        thread.join()
    saved = last_committed(tmp_path)
    assert saved is not None and saved.name == f"step-{STEPS:06d}"
    before = records_in(saved)
    for file in away.iterdir():
        shutil.copyfile(file, own / file.name)
    execute(JOB, options, str(tmp_path))
    assert curve(tmp_path) == before and len(before) == STEPS
