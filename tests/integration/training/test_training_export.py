import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from actors.model_export import export_weights
from s1.training import lora


def tiny():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        Qwen2Config(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def test_the_files_that_ranks_write_make_one_model(tmp_path: Path):
    model = tiny()
    written: list[set[str]] = []
    for rank in range(3):
        before = {file.name for file in tmp_path.iterdir()}
        export_weights(model, tmp_path, rank=rank, num_ranks=3, partitioned=False, max_shard_bytes=4000)
        written.append({file.name for file in tmp_path.glob("*.safetensors")} - before)
    assert all(written) and sum(map(len, written)) == len(list(tmp_path.glob("*.safetensors")))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * sum(value.numel() for value in model.parameters())
    loaded, found = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.bfloat16())


def test_what_lora_trains_starts_at_the_model_and_is_exported_as_a_plain_one(tmp_path: Path):
    ids = torch.arange(10)[None]
    before = tiny()(ids).logits
    model = tiny()
    lora.adapt(model, 2, seed=0)
    torch.testing.assert_close(model(ids).logits, before)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    trained = model(ids).logits
    assert (trained - before).abs().max() > 0.1
    export_weights(model, tmp_path, rank=0, num_ranks=1, partitioned=False)
    plain, found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    torch.testing.assert_close(plain(ids).logits, trained, rtol=2e-2, atol=2e-2)  # the files are bf16
