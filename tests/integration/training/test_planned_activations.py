"""What the planner says a pass takes, against what PyTorch's memory tracker counts in the project's own pass.

The model, the loss and the backward pass are those of the training, in bf16, at the full width of known models; their
tensors have shapes and no contents ("meta"), so that any machine can run them. Attention and norms are told apart by
devices: here are those that a GPU would take, with what they keep and without what they compute.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional
from torch.testing._internal.distributed.fake_pg import FakeStore
from training_cases import qwen2_config
from transformers import AutoModelForCausalLM

from s1.training.attention import PACKED
from s1.training.lean import make_lean
from s1.training.loss import Batch, SequenceMeanLoss
from s1.training.memory import GIB, Run, components
from s1.training.shapes import KNOWN, ModelShape

META = torch.device("meta")
LAYERS = 4  # all are alike
QWEN = {size: replace(KNOWN[f"Qwen/Qwen2.5-{size}-Instruct"], layers=LAYERS) for size in ("0.5B", "1.5B", "7B", "32B")}


class FusedNorm(torch.autograd.Function):
    """The norm of GPUs keeps its input, and one number of every row."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, torch.empty(hidden.shape[:-1], device=META))
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight, _ = ctx.saved_tensors
        return torch.empty_like(hidden), torch.empty_like(weight)


def flash(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float, **_: Any) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]


@pytest.fixture(autouse=True)
def kernels_of_gpus(monkeypatch):
    monkeypatch.setattr(functional, "scaled_dot_product_attention", flash)
    monkeypatch.setattr(functional, "rms_norm", lambda hidden, shape, weight, eps: FusedNorm.apply(hidden, weight))


@pytest.fixture
def group() -> Iterator[Any]:
    """Eight workers, seven of which are not there: what they send has a shape and no contents either."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


def planned_and_counted(shape: ModelShape, lengths: list[int], run: Run, group: Any = None) -> tuple[float, float]:
    """GiB beside weights and gradients at the peak of the second of two passes over sequences of `lengths`."""
    parts = components(run, sum(lengths), max(lengths))
    passing = sum(parts[name] for name in ("activations", "logits", "backward pass of a layer"))
    model = model_of(shape, checkpointing=run.activation_checkpointing)
    loss, batch = SequenceMeanLoss(model, chunk_tokens=run.loss_chunk_tokens), batch_of(lengths, run, group)
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        for _ in range(2):  # the second finds the gradients of the first
            loss(batch).backward()
            tracker.reset_mod_stats()
    peak = tracker.get_tracker_snapshot("peak")[META]["Total"]
    return passing / GIB, (peak - 2 * run.width * shape.num_parameters) / GIB


def model_of(shape: ModelShape, *, checkpointing: bool) -> Any:
    with META:
        model = AutoModelForCausalLM.from_config(qwen2_config(shape), dtype=torch.bfloat16, attn_implementation=PACKED)
    make_lean(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def batch_of(lengths: list[int], run: Run, group: Any) -> Batch:
    size = sum(lengths) // run.sequence_parallel
    ids = torch.zeros(1, size, dtype=torch.long, device=META)
    every, weights = torch.zeros(size, dtype=torch.long, device=META), torch.zeros(size, device=META)
    return Batch(ids, every, every, weights, {"position_ids": ids, "lengths": lengths, "group": group})


def run_of(
    shape: ModelShape,
    *,
    recomputed: bool,
    chunk_tokens: int = 4096,
    sequence_parallel: int = 1,
) -> Run:
    sizes = {"batch_size": sequence_parallel, "micro_batch_size": 1, "micro_batch_tokens": None}
    how = {"packing": True, "sequence_parallel": sequence_parallel}
    return Run(shape, sequence_parallel, 1, "bf16", "sdpa", recomputed, chunk_tokens, **sizes, **how)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("chunk_tokens", [512, 4096])
@pytest.mark.parametrize("size", QWEN)
def test_a_pass_takes_what_is_planned(size, chunk_tokens, recomputed):
    run = run_of(QWEN[size], recomputed=recomputed, chunk_tokens=chunk_tokens)
    planned, counted = planned_and_counted(QWEN[size], [16384], run)
    assert planned == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("recomputed", [False, True])
def test_so_does_one_of_several_sequences(recomputed):
    run = run_of(QWEN["1.5B"], recomputed=recomputed)
    planned, counted = planned_and_counted(QWEN["1.5B"], [2000, 9000, 5000], run)
    assert planned == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kv_heads", [8, 4])  # as many as there are workers; fewer, of which each worker gets copies
def test_so_does_one_that_workers_share(kv_heads, recomputed, group):
    shape = replace(QWEN["32B"], kv_heads=kv_heads)
    run = run_of(shape, recomputed=recomputed, chunk_tokens=512, sequence_parallel=8)
    planned, counted = planned_and_counted(shape, [16384, 16384], run, group)
    assert planned == pytest.approx(counted, rel=0.05)
