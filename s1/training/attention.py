"""Attention of packed sequences: each sees itself only, on one worker or with its heads spread over several.

Shapes: H heads, K heads of keys and values, T tokens of the whole pack, P workers of a group, D head dimension.

A model loaded with the attention `PACKED` calls `packed_attention` in every layer, with what `Batch.attention` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.attention import activate_flash_attention_impl
from transformers import AttentionInterface

from s1.errors import UserError

PACKED = "s1_packed"
FLASH_3 = "flash_attention_3"


def choose_kernels(attention: str) -> None:
    """Decide for this process which kernels torch's attention calls on a GPU: its own FlashAttention 2, or with
    `FLASH_3` those of the package `flash_attn_3`, which has them for compute capability 9.0 (H100, H200).

    UserError where `FLASH_3` cannot run.
    """
    # Torch would take cuDNN's on these GPUs, which plans anew for every length that it meets, and traces have all.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if attention != FLASH_3:
        return
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if major != 9:
        raise UserError(
            f"attention={FLASH_3} needs GPUs of compute capability 9.0 (H100, H200), not {name} with {major}.{minor}; "
            "take sdpa"
        )
    activate_flash_attention_impl("FA3")


def packed_attention(
    module: nn.Module,
    query: Tensor,  # (1, H, T / P, D)
    key: Tensor,  # (1, K, T / P, D)
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    lengths: Sequence[int],  # of the sequences in the pack; what follows the last one is padding
    group: Any = None,  # workers that hold neighbouring parts of the pack
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence; returns (1, T / P, H, D). The kernel never sees two sequences at once.

    With a group, its workers first exchange parts of the pack for parts of the heads (Ulysses), so that each computes
    whole sequences, and exchange them back.
    """
    assert attention_mask is None, "a mask is not needed between borders"
    if group is not None:
        size = distributed.get_world_size(group)
        if key.shape[1] % size:  # fewer heads of keys than workers: give every head of queries its own
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
        query, key, value = (_Exchange.apply(heads, group, 1, 2) for heads in (query, key, value))
    out = _each(query, key, value, scaling, lengths)
    if group is not None:
        out = _Exchange.apply(out, group, 1, 2)
    return out, None


def _each(query: Tensor, key: Tensor, value: Tensor, scaling: float, lengths: Sequence[int]) -> Tensor:
    """Attention of one sequence after the other; (1, T, H, D)."""
    # Split at once, not sliced one by one: the gradient of every slice would be as large as the whole pack.
    sizes = [*lengths, query.shape[2] - sum(lengths)]
    *sequences, (padding, _, _) = zip(*(heads.split(sizes, dim=2) for heads in (query, key, value)), strict=True)
    pieces = [
        functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
        ).transpose(1, 2)  # as kernels lay it out, and as it is read next
        for q, k, v in sequences
    ]
    # Padding sees nothing; multiplied instead of made, so that it stays a part of the graph.
    rest = [padding.transpose(1, 2) * 0] if padding.shape[2] else []
    return torch.cat([*pieces, *rest], dim=1) if len(pieces) + len(rest) > 1 else pieces[0]


class _Exchange(torch.autograd.Function):
    """Every worker of `group` gives away parts of dimension `split` and receives those of dimension `join`."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, group: Any, split: int, join: int) -> Tensor:
        ctx.group, ctx.split, ctx.join = group, split, join
        return _exchange(given, group, split, join)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(gradients[0], ctx.group, ctx.join, ctx.split), None, None, None


def _exchange(given: Tensor, group: Any, split: int, join: int) -> Tensor:
    size = distributed.get_world_size(group)
    parts = torch.stack(given.chunk(size, dim=split)).contiguous()
    received = torch.empty_like(parts)
    distributed.all_to_all_single(received, parts, group=group)
    return torch.cat(received.unbind(0), dim=join)


AttentionInterface.register(PACKED, packed_attention)
