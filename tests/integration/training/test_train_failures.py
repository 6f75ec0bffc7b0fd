"""Failures that trying again does not mend: one line that says what to do, and no second try."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from safetensors.torch import save_file
from training_cases import write_model, write_selection
from transformers import GenerationConfig

from actors import failures
from actors.model_export import export_tokenizer
from jobs.runner import execute
from jobs.train import JOB
from jobs.train_group import lost
from jobs.train_options import TrainOptions
from s1.errors import UserError

# Read by every Python process that is started with its folder on the path: workers of Ray have a full disk.
FULL_DISK = """
import resource, sys
if any("default_worker" in argument for argument in sys.orig_argv):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
"""


def test_a_disk_that_is_full_at_a_checkpoint_is_one_line_and_is_not_tried_again(tmp_path):
    write_selection(tmp_path, 8)
    model = write_model(tmp_path / "model")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(FULL_DISK)
    arguments = ["--run-dir", str(tmp_path), "--model", str(model), "--block-size", "256", "--lora-rank", "0"]
    arguments += ["--epochs", "4", "--save-steps", "2", "--max-failures", "3", "--save-in-background"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "jobs.train", "--preset", "laptop", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    errors = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    expected = rf"error: {tmp_path}.*: the node \S+ cannot write there \(File too large\); free some space"
    assert re.match(expected, errors[-1])
    assert "Traceback" not in done.stderr
    # Every training that begins again begins another file of curves.
    assert len(list(tmp_path.glob("tensorboard/*/events*"))) == 1


def test_writers_in_native_code_fail_without_a_number_and_are_understood(tmp_path):
    script = f"""
import resource, signal, sys, torch
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from safetensors.torch import save_file
from actors import failures
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
weights = {{"weight": torch.zeros(100_000)}}
for write in (lambda path: torch.save(weights, path), lambda path: save_file(weights, path)):
    try:
        write("{tmp_path}/file")
    except Exception as error:
        print(failures.reason(error, "{tmp_path}"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("cannot write there (File too large); free some space" in line for line in lines)


def test_the_memory_of_host_and_gpu_is_understood(tmp_path):
    with pytest.raises(RuntimeError) as on_host:
        torch.zeros(10**15)
    try:
        raise ValueError("while it was handled") from torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    except ValueError as error:
        on_gpu = error
    for error in (on_host.value, on_gpu):
        assert "ran out of memory" in (failures.reason(error, str(tmp_path)) or "")


def test_what_another_try_may_mend_is_no_reason(tmp_path):
    assert failures.reason(RuntimeError("Connection reset by peer"), str(tmp_path)) is None
    assert failures.reason(FileNotFoundError(2, "No such file"), str(tmp_path / "gone")) is None
    save_file({"weight": torch.zeros(2)}, tmp_path / "file")  # the disk is asked, and has room


def test_processes_that_are_gone_are_told_and_faults_of_ours_are_not():
    gone = WorkerHealthCheckFailedError("no answer", RayActorError(error_msg="The node ran out of\nmemory."))
    options = TrainOptions(max_failures=2)
    reset = RuntimeError("Connection reset by peer")
    told = lost(WorkerGroupError("", {0: reset, 1: gone}), options) or ""
    assert told.startswith("workers were lost more than max_failures=2 times, the last time: ")
    assert "The node ran out of memory." in told
    assert lost(WorkerGroupError("", {0: ZeroDivisionError()}), options) is None


def test_a_node_that_does_not_see_the_run_folder_is_named(tmp_path):
    failures.check_folder(str(tmp_path))
    with pytest.raises(UserError, match=r"/gone: the node \S+ does not see this folder of the run; put the run folder"):
        failures.check_folder(str(tmp_path / "gone"))


def test_a_temperature_without_sampling_is_exported_as_sampling(tmp_path, model):
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.95}))
    (tmp_path / "out").mkdir()
    export_tokenizer(model, tmp_path / "out", [2])
    written = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (written.do_sample, written.temperature, written.top_p, written.eos_token_id) == (True, 0.6, 0.95, [2])


@pytest.mark.parametrize("text", ['{"temperature": 0.6, "num_return_sequences": 4, "num_beams": 2}', "{not JSON"])
def test_a_generation_config_that_cannot_be_written_is_refused_before_workers_start(tmp_path, model, text):
    write_selection(tmp_path, 4)
    (model / "generation_config.json").write_text(text)
    options = TrainOptions(model=str(model), batch_size=4, block_size=256)
    with pytest.raises(UserError, match=r"generation_config\.json: cannot be written for the trained model"):
        execute(JOB, options, str(tmp_path))


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "model")
