"""What the hub will not give is told before Ray starts, in one line that says what to do; a model by what it is."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s1 import models
from tests import hub_server
from tests.hub_server import COMMIT, HubServer
from tests.integration.test_hub_unreachable import put

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
ROWS = b"\n".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}).encode() for n in range(3))


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server.running() as found:
        found.data_sets = {"me/open": {"train.jsonl": ROWS}, "me/gated": {"train.jsonl": ROWS}}
        found.models = {
            "me/small": {
                "config.json": json.dumps(CONFIG).encode(),
                "tokenizer.json": b"{}",
                "model.safetensors": b"weights",
            },
            "me/state": {"config.json": json.dumps({**CONFIG, "model_type": "mamba2"}).encode()},
            "me/closed": {"config.json": b"{}"},
        }
        found.gated = {"me/gated": "hf_consented", "me/closed": "hf_consented"}
        yield found


def run(server: HubServer, folder: Path, code: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own: the hub's client reads its settings once."""
    env = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    env |= {"HF_ENDPOINT": server.origin, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home"), **more}
    return subprocess.run([sys.executable, *code], env=env, capture_output=True, text=True, timeout=600)


def pipeline(server: HubServer, folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run(server, folder, ["-m", "jobs.pipeline", "--run-dir", str(folder / "run"), *arguments], **more)


TEST_SETS = ("--featurize.test-sets", "hub:me/open", "hub:me/gated")
RECORDED = ("--distill.teacher", "recorded", "--distill.recorded.path")
COLLECT = ("--collect.source", "hub", "--collect.hub.name")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*RECORDED, "hub:me/nothing"), "distill: data set 'me/nothing' (split 'train') cannot be read: Dataset"),
        ((*COLLECT, "me/nothing"), "collect: data set 'me/nothing' (split 'train') cannot be read: Dataset"),
        (
            (*COLLECT, "me/open", "--collect.hub.split", "test"),
            "collect: data set 'me/open' (split 'test') cannot be r",
        ),
    ],
)
def test_what_is_not_there_is_told_before_ray_starts(
    server: HubServer, tmp_path: Path, arguments: tuple[str, ...], says: str
):
    done = pipeline(server, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {says}") and "starting Ray" not in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("token", [{}, {"HF_TOKEN": "hf_of_somebody"}])
def test_a_gated_data_set_names_the_token_and_the_page_of_the_consent(
    server: HubServer, tmp_path: Path, token: dict[str, str]
):
    done = pipeline(server, tmp_path, *TEST_SETS, **token)
    assert done.returncode == 2 and "starting Ray" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: featurize: data set 'me/gated'")
    assert f"{server.origin}/datasets/me/gated" in error and "HF_TOKEN" in error and "hf_of" not in error


def test_with_the_right_token_every_data_set_is_asked_for_once(server: HubServer, tmp_path: Path):
    arguments = [*TEST_SETS, *RECORDED, "hub:me/open", *COLLECT, "me/open", "--run-dir", str(tmp_path / "run")]
    code = f"from jobs import pipeline; pipeline.check_hub(pipeline.parse({arguments!r}))"
    done = run(server, tmp_path, ["-c", code], HF_TOKEN="hf_consented")
    assert (done.returncode, done.stderr) == (0, "asking the hub for the data sets\n")
    for name in server.data_sets:
        assert sum(path.endswith(f"{name}/resolve/main/README.md") for path in server.asked) == 1


def test_a_dry_run_asks_nobody_and_offline_is_told_at_once(server: HubServer, tmp_path: Path):
    assert pipeline(server, tmp_path, *TEST_SETS, "--train.model", "me/state", "--dry-run").returncode == 0
    done = pipeline(server, tmp_path, *TEST_SETS, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "unset HF_HUB_OFFLINE" in done.stderr.splitlines()[-1]
    assert server.asked == []


def planned(server: HubServer, folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run(server, folder, ["-m", "jobs.plan", "--run-dir", str(folder / "run"), "--json", *arguments], **more)


def test_a_model_of_the_hub_is_planned_by_its_configuration_alone(server: HubServer, tmp_path: Path):
    done = planned(server, tmp_path, "--train.model", "me/small@v2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["parameters"], found["fits"]) == (2 * (4 * 64 * 64 + 32 + 3 * 64 * 128 + 128) + 200 * 64 + 64, True)
    assert server.asked[0] == "/me/small/resolve/v2/config.json"
    assert {path for path in server.asked if "/resolve/" in path} == {
        server.asked[0],
        f"/me/small/resolve/{COMMIT}/config.json",
    }
    server.asked.clear()
    again = planned(server, tmp_path, "--train.model", "me/small@v2", HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)["parameters"] == found["parameters"] and server.asked == []
    # What was fetched is no model to train.
    put(tmp_path / "run")
    folder = str(tmp_path / "run")
    trained = run(
        server, tmp_path, ["-m", "jobs.train", "--model", "me/small@v2", "--run-dir", folder], HF_HUB_OFFLINE="1"
    )
    assert "error: model 'me/small@v2' is not in the hub's cache and cannot be downloaded" in trained.stderr


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("me/nothing", "model 'me/nothing' is not in the hub's cache and cannot be downloaded (404"),
        ("me/closed", "model 'me/closed' is not in the hub's cache and cannot be downloaded (401"),
        ("me/state", "me/state: packing is tested for full attention in models of the kinds llama, qwen2, qwen3, not "),
    ],
)
def test_a_model_that_cannot_be_had_or_trained_is_told_before_ray_starts(
    server: HubServer, tmp_path: Path, model: str, says: str
):
    done = planned(server, tmp_path, "--train.model", model)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {says}")
    done = pipeline(server, tmp_path, "--train.model", model)
    assert done.returncode == 2 and "starting Ray" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: train: {says}")


def test_a_training_that_does_not_fit_is_refused_before_its_weights_are_fetched(server: HubServer, tmp_path: Path):
    put(tmp_path / "run")
    folder = models.resolve("embedded:smollm2-135m-instruct")
    small = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".json", ".jinja")}
    server.models["me/smol"] = {**small, "model.safetensors": b"weights"}
    done = run(
        server,
        tmp_path,
        ["-m", "jobs.train", "--model", "me/smol", "--hardware.memory-gib", "1", "--run-dir", str(tmp_path / "run")],
    )
    assert done.returncode == 2 and "error: does not fit, " in done.stderr
    assert any(path.endswith("/tokenizer.json") for path in server.asked)
    assert not any(path.endswith("/model.safetensors") for path in server.asked)
