import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config

from s1.errors import UserError
from s1.training import weights
from s1.training.shapes import shape_from_config

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "head_dim": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = Qwen3Config(**SIZES, num_hidden_layers=3, num_key_value_heads=1, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path, max_shard_size="5KB")
    return tmp_path


def check(folder: Path, **changes: int | str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights.check(folder, shape_from_config(config | changes, str(folder)))


def test_weights_of_the_model_are_taken_in_however_many_files(folder):
    assert len(list(folder.glob("*.safetensors"))) > 1
    check(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 51}, r"model\.embed_tokens\.weight is \[50, 16\], not \[51, 16\]"),
        ({"intermediate_size": 64}, "gate_proj"),
        ({"num_attention_heads": 8}, "q_proj"),
        ({"num_key_value_heads": 2}, "k_proj"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"model_type": "qwen2"}, r"k_proj\.bias is missing"),
        ({"num_hidden_layers": 4}, "they have 3 layers, not 4"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(folder, changes, says):
    with pytest.raises(UserError, match=f"not those of the model in config.json: .*{says}"):
        check(folder, **changes)


def test_a_folder_without_whole_weights_is_refused(folder):
    files = sorted(folder.glob("*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:20])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        check(folder)
    files[0].unlink()
    with pytest.raises(UserError, match=r"is missing, not|a file of them may be missing"):
        check(folder)
    for file in files[1:]:
        file.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        check(folder)
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="is missing, not"):
        check(folder)
