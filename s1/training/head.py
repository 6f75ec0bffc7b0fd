"""The head of a language model with the cross-entropy on top, chunk by chunk, which never holds all logits.

The gradients are computed in the forward pass, where the logits of a chunk are at hand: nothing is kept of them, the
head works once, and the gradient of its weight exists once. Computed again in the backward pass, as activation
checkpointing does it, the head works twice (a twentieth of all operations of Qwen2.5-1.5B), and autograd holds three
copies of that gradient while it adds up those of the chunks.

Shapes: N positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS_AT_A_TIME = 128  # of logits that are copied in 32 bits beside their result


def with_loss(head: nn.Module) -> None:
    """Let `head` (a linear layer) compute a loss as well: `head(hidden, targets=..., weights=..., num_chunks=...)`.

    That is the sum over the positions of `weights` (N,) times the cross-entropy with `targets` (N,), a scalar in 32
    bits. `hidden`: (N, D). It is the head's own forward pass, so that under ZeRO-3 the weight is gathered for it.
    """
    head.forward = partial(_forward, head, head.forward)


def _forward(
    head: Any,
    plain: Any,
    hidden: Tensor,
    *,
    targets: Tensor | None = None,
    weights: Tensor | None = None,
    num_chunks: int = 1,
) -> Tensor:
    if targets is None:
        return plain(hidden)
    learns = torch.is_grad_enabled()  # in the function below it never is
    return _Loss.apply(hidden, head.weight, head.bias, targets, weights, num_chunks, learns)  # pyright: ignore[reportReturnType]


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        num_chunks: int,
        learns: bool,
    ) -> Tensor:
        needed = [learns and needs for needs in ctx.needs_input_grad[:3]]
        # Filled chunk by chunk.
        of_hidden = torch.empty_like(hidden) if needed[0] else None
        of_weight = torch.empty_like(weight) if needed[1] else None
        of_bias = torch.zeros_like(bias) if needed[2] and bias is not None else None
        total = torch.zeros((), device=hidden.device)
        for number, at in enumerate(_places(len(hidden), num_chunks)):
            logits = functional.linear(hidden[at], weight, bias)
            found, number_type, chosen = _log_probabilities(logits), logits.dtype, targets[at, None]
            del logits
            total -= (found.gather(1, chosen)[:, 0] * weights[at]).sum()
            if not any(needed):
                continue
            of_logits = _gradient(found, chosen, weights[at, None], number_type)
            del found
            if of_hidden is not None:
                torch.mm(of_logits, weight, out=of_hidden[at])
            if of_weight is not None:
                of_weight.addmm_(of_logits.T, hidden[at], beta=min(number, 1))
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            del of_logits  # before the next one is made
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Once: what the forward pass has found becomes the gradients in its place."""
        (gradient,) = gradients
        found = [None if saved is None else saved.mul_(gradient) for saved in ctx.saved_tensors]
        return (*found, None, None, None, None)


def _places(size: int, num_chunks: int) -> Iterator[slice]:
    """`num_chunks` slices of equal length, but for rounding, that make up `size`."""
    for number in range(num_chunks):
        yield slice(size * number // num_chunks, size * (number + 1) // num_chunks)


def _gradient(found: Tensor, chosen: Tensor, weights: Tensor, number_type: torch.dtype) -> Tensor:
    """Of the weighted cross-entropy to the logits, made where their log-probabilities are: these are used up."""
    found.exp_().scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=found.dtype))
    return found.mul_(weights).to(number_type)


def _log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax of the rows in 32 bits."""
    found = torch.empty_like(logits, dtype=torch.float32)
    for rows, given in zip(found.split(ROWS_AT_A_TIME), logits.split(ROWS_AT_A_TIME), strict=True):
        torch.log_softmax(given, dim=-1, dtype=torch.float32, out=rows)
    return found
