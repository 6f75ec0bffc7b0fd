"""The loss of the recipe: mean over the thinking and answer tokens of a sequence, summed over sequences.

Shapes: B sequences, T tokens of the longest, rounded up, N loss positions in all, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from s1.template import Example

# Lengths and numbers of loss positions are rounded up to so many sizes between two powers of two. On CPUs the library
# prepares a kernel, with working memory of its own, for every shape it meets: few shapes are few kernels.
LENGTHS_PER_DOUBLING = 4
POSITIONS_PER_DOUBLING = 2


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, padded on the right: causal attention never looks at the padding."""

    input_ids: Tensor  # (B, T)
    starts: Tensor  # (B,) first token that counts
    ends: Tensor  # (B,) one after the last
    weights: Tensor  # (B,) 1 / number of tokens that count, 0 for a sequence that only keeps a rank in step
    num_chunks: int = 1  # pieces in which the head sees the loss positions


def round_up(size: int, per_doubling: int) -> int:
    """The next of `per_doubling` evenly spaced sizes between two powers of two; at most 1 / `per_doubling` is added."""
    spacing = max(1, (1 << max(0, size - 1).bit_length()) // 2 // per_doubling)
    return -(-size // spacing) * spacing


def padded_length(num_tokens: int) -> int:
    """Length to which a sequence of `num_tokens`, the longest of its pass, is padded."""
    return round_up(num_tokens, LENGTHS_PER_DOUBLING)


def collate(examples: Sequence[Example], device: torch.device, *, num_chunks: int = 1, counts: bool = True) -> Batch:
    """`examples` as tensors on `device`; without `counts` their loss is 0."""
    ends = [len(example.input_ids) for example in examples]
    starts = [example.num_prompt_tokens for example in examples]
    length = padded_length(max(ends))
    input_ids = torch.zeros(len(examples), length, dtype=torch.long)
    for row, example in enumerate(examples):
        input_ids[row, : ends[row]] = torch.tensor(example.input_ids)
    weights = [float(counts) / (end - start) for start, end in zip(starts, ends, strict=True)]
    return Batch(
        input_ids.to(device),
        torch.tensor(starts, device=device),
        torch.tensor(ends, device=device),
        torch.tensor(weights, device=device),
        num_chunks,
    )


class SequenceMeanLoss(nn.Module):
    """A causal language model with the loss on top; the head sees the loss positions only."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Sum over the batch's sequences of the mean cross-entropy of the tokens that count; scalar.

        With several chunks the logits are computed piece by piece and once more in the backward pass, so that a long
        trace never holds its (N, V) logits. Under ZeRO-3 every use of the head is a collective operation: ranks must
        agree on the number of chunks.
        """
        hidden = self.model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        targets = batch.input_ids[:, 1:]
        places = torch.arange(1, batch.input_ids.shape[1], device=targets.device)
        counted = (places >= batch.starts[:, None]) & (places < batch.ends[:, None])  # (B, T - 1)
        weights = batch.weights[:, None].expand_as(counted)[counted]  # (N,)
        padding = round_up(len(weights), POSITIONS_PER_DOUBLING) - len(weights)
        tensors = (
            functional.pad(hidden[:, :-1][counted], (0, 0, 0, padding)),
            functional.pad(targets[counted], (0, padding)),
            functional.pad(weights, (0, padding)),
        )
        if batch.num_chunks == 1:
            return self._chunk(*tensors)
        pieces = zip(*(tensor.tensor_split(batch.num_chunks) for tensor in tensors), strict=True)
        losses = [checkpoint(self._chunk, *piece, use_reentrant=False) for piece in pieces]
        return torch.stack(losses).sum()

    def _chunk(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        head: nn.Module = self.model.get_output_embeddings()  # pyright: ignore[reportAssignmentType]
        losses = functional.cross_entropy(head(hidden).float(), targets, reduction="none")
        return (losses * weights).sum()
