import copy

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from actors import train_engine
from s1.training import lean
from s1.training.memory import Run, components
from s1.training.shapes import ModelShape

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 4}
CONFIGS = [LlamaConfig, Qwen2Config, Qwen3Config]


def tiny(config=Qwen2Config, layers: int = 2):
    torch.manual_seed(0)
    more = {"num_hidden_layers": layers, "num_key_value_heads": 1, "initializer_range": 0.5}
    return AutoModelForCausalLM.from_config(config(**SIZES, **more))


def kept_bytes(model, ids: torch.Tensor) -> int:
    """Bytes that the backward pass of `model` waits for, beside its weights."""
    found: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(ids, labels=ids)
        found_bytes = sum(found.values())
    del output
    return found_bytes


@pytest.mark.parametrize("config", CONFIGS)
def test_a_lean_model_computes_the_same(config):
    plain, ids = tiny(config), torch.arange(20)[None]
    model = copy.deepcopy(plain)
    lean.make_lean(model)
    for each in (plain, model):
        each(ids, labels=ids).loss.backward()
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    expected = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


def test_layers_keep_their_activations_or_their_inputs_from_pass_to_pass():
    model, ids = tiny(layers=4), torch.arange(40)[None]
    model.train()
    plain = kept_bytes(model, ids)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recomputed = kept_bytes(model, ids)
    train_engine.recompute(model, False)
    assert kept_bytes(model, ids) == plain > 1.5 * recomputed
    train_engine.recompute(model, True)
    assert kept_bytes(model, ids) == recomputed


@pytest.mark.parametrize("config", CONFIGS)
def test_the_norm_of_gpus_is_the_models_norm(config):
    norm = tiny(config).model.norm
    hidden = torch.randn(3, 16, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    norm = norm.to(torch.bfloat16)
    ours = functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
    torch.testing.assert_close(ours, norm(hidden), rtol=1e-2, atol=1e-2)


def test_a_layer_keeps_what_the_planner_counts():
    tokens = 256
    ids = torch.arange(tokens)[None] % 50
    shape = ModelShape(2, 16, 48, 4, 1, 4, 50, tied=False, qkv_bias=True)
    run = Run(shape, 1, 1, "fp32", "sdpa", False, tokens, 1, 1, None)
    model = tiny()
    lean.make_lean(model)
    deeper = tiny(layers=3)
    lean.make_lean(deeper)
    per_layer = kept_bytes(deeper, ids) - kept_bytes(model, ids)
    planned = components(run, tokens, tokens)["activations"] / shape.layers
    normed = 2 * shape.hidden * run.width * tokens  # which norms on CPUs keep beside their weighted values
    assert planned + normed == pytest.approx(per_layer, rel=0.05)
