from pathlib import Path

import pytest

from s1 import models
from s1.errors import UserError


def test_the_encoder_is_used_where_its_package_lies():
    folder = models.resolve("embedded:minilm")
    assert (folder / "model.safetensors").is_file()


def test_a_local_folder_is_itself(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    assert models.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("embedded:gpt-5", "the embedded models are embedded:smollm2-135m-instruct"),
        ("./nowhere", "no such folder"),
        ("nowhere", "not a hub id"),
        ("", "not a hub id"),
        ("a/b/c", "not a hub id"),
    ],
)
def test_what_cannot_be_a_model_is_said_in_one_line(ref: str, says: str):
    with pytest.raises(UserError, match=says) as error:
        models.check(ref)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path):
    with pytest.raises(UserError, match=r"no config\.json"):
        models.check(str(tmp_path))


def test_hub_ids_pass_the_check_without_a_connection():
    models.check("Qwen/Qwen2.5-32B-Instruct")
    models.check("Qwen/Qwen2.5-32B-Instruct@main")


def test_a_model_that_cannot_be_fetched_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the hub's cache") as error:
        models.resolve("nobody/no-such-model")
    assert "\n" not in str(error.value)


def test_an_unwritable_cache_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("S1_CACHE", str(file))
    with pytest.raises(UserError, match="set S1_CACHE"):
        models.resolve("embedded:smollm2-135m-instruct")
