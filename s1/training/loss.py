"""The loss of the recipe: mean over the thinking and answer tokens of a sequence, summed over sequences.

Shapes: B sequences, T tokens of the longest, N loss positions in all, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from s1.template import Example


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, padded on the right: causal attention never looks at the padding."""

    input_ids: Tensor  # (B, T)
    starts: Tensor  # (B,) first token that counts
    ends: Tensor  # (B,) one after the last
    weights: Tensor  # (B,) 1 / number of tokens that count, 0 for a sequence that only keeps a rank in step
    num_chunks: int = 1  # pieces in which the head sees the loss positions
    num_shared: int = 0  # first tokens that all sequences have in common and that are computed once


def collate(
    examples: Sequence[Example],
    device: torch.device,
    *,
    num_chunks: int = 1,
    share_prompt: bool = False,
    counts: bool = True,
) -> Batch:
    """`examples` as tensors on `device`; without `counts` their loss is 0."""
    ends = [len(example.input_ids) for example in examples]
    starts = [example.num_prompt_tokens for example in examples]
    input_ids = torch.zeros(len(examples), max(ends), dtype=torch.long)
    for row, example in enumerate(examples):
        input_ids[row, : ends[row]] = torch.tensor(example.input_ids)
    weights = [float(counts) / (end - start) for start, end in zip(starts, ends, strict=True)]
    return Batch(
        input_ids.to(device),
        torch.tensor(starts, device=device),
        torch.tensor(ends, device=device),
        torch.tensor(weights, device=device),
        num_chunks,
        shared_tokens(examples) if share_prompt else 0,
    )


def shared_tokens(examples: Sequence[Example]) -> int:
    """Tokens at the start of all prompts that are the same; 0 for a single example. The last one of a prompt never
    counts: it predicts the first token of the thinking."""
    if len(examples) == 1:
        return 0
    limit = min(example.num_prompt_tokens for example in examples) - 1
    first, *others = (example.input_ids for example in examples)
    return next((at for at in range(limit) if any(ids[at] != first[at] for ids in others)), limit)


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
        hidden = self._hidden(batch)  # (B, T - shared, D)
        targets = batch.input_ids[:, batch.num_shared + 1 :]
        places = torch.arange(batch.num_shared + 1, batch.input_ids.shape[1], device=targets.device)
        counted = (places >= batch.starts[:, None]) & (places < batch.ends[:, None])  # (B, T - shared - 1)
        weights = batch.weights[:, None].expand_as(counted)[counted]  # (N,)
        tensors = (hidden[:, :-1][counted], targets[counted], weights)
        if batch.num_chunks == 1:
            return self._chunk(*tensors)
        pieces = zip(*(tensor.tensor_split(batch.num_chunks) for tensor in tensors), strict=True)
        losses = [checkpoint(self._chunk, *piece, use_reentrant=False) for piece in pieces]
        return torch.stack(losses).sum()

    def _hidden(self, batch: Batch) -> Tensor:
        """Last hidden states after the shared tokens."""
        backbone = self.model.base_model
        if not batch.num_shared:
            return backbone(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        # Causal attention gives the shared tokens the same states in every sequence: one row computes their keys and
        # values, every row reads them, and their gradients add up on the way back.
        cache = DynamicCache()
        backbone(input_ids=batch.input_ids[:1, : batch.num_shared], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch.input_ids))
        rest = batch.input_ids[:, batch.num_shared :]
        return backbone(input_ids=rest, past_key_values=cache, use_cache=True).last_hidden_state

    def _chunk(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        head: nn.Module = self.model.get_output_embeddings()  # pyright: ignore[reportAssignmentType]
        losses = functional.cross_entropy(head(hidden).float(), targets, reduction="none")
        return (losses * weights).sum()
