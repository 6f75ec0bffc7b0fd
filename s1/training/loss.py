"""The loss of the recipe: mean over the thinking and answer tokens of a sequence, summed over sequences.

Shapes: B rows, T tokens of a row, N loss positions in all, padding included.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn import functional
from transformers import PreTrainedModel

from s1.template import Example
from s1.training.batches import round_up
from s1.training.head import with_loss

# Lengths and numbers of loss positions are rounded up to so many sizes between two powers of two. On CPUs the library
# prepares a kernel, with working memory of its own, for every shape it meets: few shapes are few kernels.
LENGTHS_PER_DOUBLING = 4
POSITIONS_PER_DOUBLING = 2


@dataclass(frozen=True)
class Batch:
    """What one worker sees in a forward pass."""

    input_ids: Tensor  # (B, T)
    places: Tensor  # (N,) where a prediction counts, in rows end to end; found on the host, which then need not wait
    targets: Tensor  # (N,) the next token of the sequence
    weights: Tensor  # (N,) 1 / number of tokens that count, 0 in padding and where a sequence keeps a rank in step only
    attention: dict[str, Any] = field(default_factory=dict[str, Any])  # further arguments of the model


def padded_length(num_tokens: int, device: torch.device) -> int:
    """Length to which a sequence of `num_tokens`, the longest of its pass, is padded."""
    return _rounded(num_tokens, LENGTHS_PER_DOUBLING, device)


def _rounded(size: int, per_doubling: int, device: torch.device) -> int:
    # Other devices choose among kernels that are there, and like multiples of their tiles.
    return round_up(size, per_doubling) if device.type == "cpu" else -(-size // 64) * 64


def collate(examples: Sequence[Example], device: torch.device, *, counts: bool = True) -> Batch:
    """`examples` as rows padded on the right, where causal attention never looks; without `counts` their loss is 0."""
    length = padded_length(max(len(example.input_ids) for example in examples), device)
    rows = [_columns([example], length, counts) for example in examples]
    return _batch([torch.cat(column) for column in zip(*rows, strict=True)], device, {})


def packed_length(num_tokens: int, parts: int, device: torch.device) -> int:
    """Length of a pack of `num_tokens` that `parts` workers share evenly."""
    return -(-padded_length(num_tokens, device) // parts) * parts


def pack(
    examples: Sequence[Example],
    device: torch.device,
    *,
    counts: bool = True,
    part: int = 0,
    parts: int = 1,
    group: Any = None,
) -> Batch:
    """`examples` end to end in one row, of which this worker holds part `part` of `parts` equal ones."""
    lengths = [len(example.input_ids) for example in examples]
    length = packed_length(sum(lengths), parts, device)
    size = length // parts
    mine = slice(part * size, (part + 1) * size)
    columns = [column[:, mine] for column in _columns(examples, length, counts)]
    # Positions start again with every sequence; those of the padding are never used.
    positions = torch.cat([*(torch.arange(own) for own in lengths), torch.zeros(length - sum(lengths))]).long()
    attention = {"position_ids": positions[None, mine].to(device), "lengths": lengths, "group": group}
    return _batch(columns, device, attention)


def _batch(columns: Sequence[Tensor], device: torch.device, attention: dict[str, Any]) -> Batch:
    """`columns`: input ids, targets, whether they count and weights, each (B, T) on the host."""
    input_ids, targets, counted, weights = columns
    places = counted.flatten().nonzero()[:, 0]
    padding = _rounded(max(1, len(places)), POSITIONS_PER_DOUBLING, device) - len(places)
    flat = (places, targets.flatten()[places], weights.flatten()[places])
    return Batch(
        input_ids.to(device), *(functional.pad(column, (0, padding)).to(device) for column in flat), attention=attention
    )


def _columns(examples: Sequence[Example], length: int, counts: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input ids, targets, counted and weights of one row that holds `examples` end to end; each (1, length)."""
    input_ids = torch.zeros(1, length + 1, dtype=torch.long)
    counted = torch.zeros(1, length, dtype=torch.bool)
    weights = torch.zeros(1, length)
    start = 0
    for example in examples:
        end = start + len(example.input_ids)
        input_ids[0, start:end] = torch.tensor(example.input_ids)
        # The last token of a prompt predicts the first one that counts; the last token predicts none.
        places = slice(start + example.num_prompt_tokens - 1, end - 1)
        counted[0, places] = True
        weights[0, places] = float(counts) / (len(example.input_ids) - example.num_prompt_tokens)
        start = end
    return input_ids[:, :-1], input_ids[:, 1:], counted, weights


class SequenceMeanLoss(nn.Module):
    """A causal language model with the loss on top; the head sees the loss positions only."""

    def __init__(self, model: PreTrainedModel, *, chunk_tokens: int, offload: bool = False) -> None:
        """The head sees at most `chunk_tokens` loss positions at a time.

        With `offload`, what the forward pass keeps for the backward pass waits in host memory.
        """
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens
        self.offload = offload
        with_loss(self.head)

    @property
    def head(self) -> nn.Module:
        return self.model.get_output_embeddings()  # pyright: ignore[reportReturnType]

    def forward(self, batch: Batch) -> Tensor:
        """Sum over the batch's sequences of the mean cross-entropy of the tokens that count; scalar."""
        on_gpu = batch.input_ids.device.type == "cuda"
        with save_on_cpu(pin_memory=on_gpu) if self.offload else nullcontext():
            outputs = self.model.base_model(input_ids=batch.input_ids, use_cache=False, **batch.attention)
        return self.head(
            outputs.last_hidden_state.flatten(0, 1).index_select(0, batch.places),
            targets=batch.targets,
            weights=batch.weights,
            num_chunks=-(-len(batch.places) // self.chunk_tokens),
        )
