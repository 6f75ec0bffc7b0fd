import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from huggingface_hub import ModelCard
from process_tree import below
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_cases import committed, plain_loop, plain_weights, write_model, write_selection
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.ray_session import ray_session
from jobs.runner import execute
from jobs.train import JOB
from jobs.train_options import TrainOptions
from s1 import schema
from s1.artifacts import Artifact
from s1.errors import UserError
from s1.template import Template
from s1.training.hardware import Hardware

NUM_ROWS = 22  # batches of 8: the last one of an epoch is smaller
OPTIONS = {"batch_size": 8, "learning_rate": 1e-2, "block_size": 256, "threads_per_worker": 1, "cpus_per_worker": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ray():
    with ray_session():
        yield


def selection(tmp_path: Path, size: int = NUM_ROWS) -> str:
    write_selection(tmp_path, size)
    return str(tmp_path)


def curve(run_dir: str) -> list[dict[str, float]]:
    return json.loads((Path(run_dir) / "checkpoint" / "loss.json").read_text())


def weights(run_dir: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run_dir) / "checkpoint" / "model.safetensors")


def test_the_checkpoint_loads_as_it_is(ray, model, tmp_path):
    run_dir = selection(tmp_path)
    options = TrainOptions(
        **OPTIONS,
        model=str(model),
        epochs=4,
        micro_batch_size=4,
        activation_checkpointing=True,
        held_out=2,
        samples=1,
        sample_tokens=8,
        hardware=Hardware(tokens_per_s=1000),
    )
    manifest = execute(JOB, options, run_dir)
    folder = tmp_path / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trained, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert trained.dtype == torch.bfloat16
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    assert trained.generation_config.eos_token_id == sorted(Template(tokenizer).stop_ids)
    assert manifest.rows_out == NUM_ROWS - 2 and manifest.dropped["held_out"] == 2 and manifest.facts["steps"] == 12
    records = curve(run_dir)
    fields = {"step", "loss", "learning_rate", "grad_norm", "tokens", "seconds", "ended"}
    fields |= {"tflops", "balance", "memory_gib"}
    assert records[-1].keys() == {*fields, "held_out_loss", "samples"} and records[-2].keys() == fields
    held_out = [record["held_out_loss"] for record in records if "held_out_loss" in record]
    assert len(held_out) == 4 and held_out[-1] < held_out[0]
    (sample,) = records[-1]["samples"]
    assert sample["text"] and sample["question_id"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and f"{records[-1]['loss']:.4f}" in card.text
    (events,) = (tmp_path / "tensorboard").iterdir()
    shown = EventAccumulator(str(events)).Reload().Scalars("loss/train")
    assert [point.step for point in shown] == list(range(1, 13))
    assert shown[-1].value == pytest.approx(records[-1]["loss"])
    assert not (tmp_path / "_scratch" / f"train-{manifest.fingerprint}").exists()


def test_a_loss_that_is_not_a_number_names_the_questions(ray, model, tmp_path):
    broken = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "broken")
    run_dir = selection(tmp_path, 3)
    questions = Artifact(f"{run_dir}/selection").read(schema.SELECTION)["question_id"].to_pylist()
    with pytest.raises(UserError, match="step 1: loss nan") as error:
        execute(JOB, TrainOptions(**OPTIONS, model=str(tmp_path / "broken"), precision="fp32"), run_dir)
    assert all(question in str(error.value) for question in questions)


def test_more_workers_than_the_machine_can_hold_are_refused(ray, model, tmp_path):
    options = TrainOptions(**OPTIONS | {"cpus_per_worker": 1000}, model=str(model))
    with pytest.raises(UserError, match=r"workers=1 needs 1 x \(1000 CPU"):
        execute(JOB, options, selection(tmp_path))


def command(options: TrainOptions, run_dir: str) -> list[str]:
    """A command line that says every option, so that no preset matters."""
    arguments: list[str] = []
    for name, value in options.model_dump(exclude={"hardware", "trackers"}).items():
        flag = name.replace("_", "-")
        arguments += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return [sys.executable, "-m", "jobs.train", "--run-dir", run_dir, *arguments]


def last_step(checkpoints: set[Path]) -> int:
    return max(int(folder.name.removeprefix("step-")) for folder in checkpoints)


def starts(log: str) -> list[int]:
    """Steps that were done when each group of workers began, as the job says it."""
    return [int(step) - 1 for step in re.findall(r"workers begin at step (\d+) of 48\n", log)]


def wait_for(condition, process: subprocess.Popen, log: Path):
    """Poll until `condition()` holds while `process`, which writes to `log`, runs."""
    deadline = time.monotonic() + 600
    while not (value := condition()):
        assert process.poll() is None, f"the training ended too early: {log.read_text()}"
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return value


def test_a_run_that_loses_workers_and_drivers_ends_like_an_undisturbed_one(ray, model, tmp_path, capsys):
    disturbed = selection(tmp_path)
    # 48 steps of 2 workers, a checkpoint of 2 shards every 6.
    options = TrainOptions(
        **OPTIONS | {"learning_rate": 3e-3},
        weight_decay=5.0,  # that of the recipe would be less than what is compared
        model=str(model),
        precision="fp32",
        epochs=16,
        save_steps=6,
        micro_batch_size=2,
        workers=2,
        zero_stage=3,
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "first.log"
    with log.open("w") as file:
        process = subprocess.Popen(command(options, disturbed), env=environment, stdout=file, stderr=file)
    before = wait_for(lambda: committed(Path(disturbed)), process, log)
    workers = below("RayTrainWorker", root=psutil.Process(process.pid))
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    wait_for(lambda: len(starts(log.read_text())) > 1, process, log)
    first, second = starts(log.read_text())
    assert first == 0 and second >= last_step(before)
    before |= wait_for(lambda: committed(Path(disturbed)) - before, process, log)
    process.kill()
    process.wait()
    assert not (Path(disturbed) / "checkpoint" / "_manifest.json").exists()

    # The machine that comes next has room for one worker only.
    execute(JOB, options.model_copy(update={"workers": 1}), disturbed)
    (third,) = starts(capsys.readouterr().err)
    assert third >= last_step(before)

    losses, undisturbed = plain_loop(options, disturbed)
    assert [record["step"] for record in curve(disturbed)] == list(range(1, 49))
    assert [record["loss"] for record in curve(disturbed)] == pytest.approx(losses, rel=1e-3)
    trained = weights(disturbed)
    for name, weight in plain_weights(dict(undisturbed.named_parameters())).items():
        torch.testing.assert_close(trained[name], weight.bfloat16(), rtol=2e-2, atol=5e-3)
