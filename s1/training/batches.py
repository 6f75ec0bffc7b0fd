"""Which examples make up which optimiser step, and how a batch is spread over workers and forward passes.

Everything follows from (seed, step): a resumed run sees the same batches, whatever the number of workers. A rank here
is whoever works on its own sequences: a worker, or under sequence parallelism a group of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from s1.training.schedule import steps_per_epoch


@lru_cache(maxsize=2)
def permutation(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order of the examples in `epoch`."""
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def batch(step: int, num_examples: int, batch_size: int, seed: int) -> list[int]:
    """Examples of optimiser step `step`, counted over all epochs; the last batch of an epoch may be smaller."""
    epoch, position = divmod(step, steps_per_epoch(num_examples, batch_size))
    order = permutation(num_examples, seed, epoch)
    return order[position * batch_size : (position + 1) * batch_size].tolist()


def spread(
    lengths: Sequence[int],
    num_ranks: int,
    *,
    packing: bool,
    micro_batch_size: int,
    micro_batch_tokens: int | None,
    block_size: int,
) -> list[list[list[int]]]:
    """Positions in a batch for each forward pass and, inside it, each rank, packed or padded."""
    if packing:
        return packs(lengths, num_ranks, micro_batch_tokens or block_size)
    return passes(lengths, num_ranks, micro_batch_size, micro_batch_tokens)


def round_up(size: int, per_doubling: int) -> int:
    """The next of `per_doubling` evenly spaced sizes between two powers of two; at most 1 / `per_doubling` is added."""
    spacing = max(1, (1 << max(0, size - 1).bit_length()) // 2 // per_doubling)
    return -(-size // spacing) * spacing


def pass_tokens(lengths: Sequence[int], *, packing: bool) -> int:
    """Tokens that a pass over sequences of `lengths` holds: with packing none of them is padding."""
    return sum(lengths) if packing else max(lengths, default=0) * len(lengths)


def assign(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Positions in a batch for each rank: numbers differ by one at most, tokens are balanced, longest first."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    tokens = [0] * num_ranks
    for start in range(0, len(order), num_ranks):
        # One round gives every rank one example: the longest of the round to the rank with the fewest tokens so far.
        free = sorted(range(num_ranks), key=lambda rank: (tokens[rank], rank))
        for rank, position in zip(free, order[start : start + num_ranks], strict=False):
            ranks[rank].append(position)
            tokens[rank] += lengths[position]
    return ranks


def passes(
    lengths: Sequence[int], num_ranks: int, micro_batch_size: int, micro_batch_tokens: int | None = None
) -> list[list[list[int]]]:
    """Positions in a batch for each forward pass and, inside it, each rank.

    A rank gets at most `micro_batch_size` examples a pass, and no more than `micro_batch_tokens` tokens, padding
    included, unless one example alone has more. Every rank takes part in every pass, as collective operations demand;
    one without examples left has an empty list. Examples of a pass are neighbours in length, so that little is padded.
    """
    cut = [_cut(share, lengths, micro_batch_size, micro_batch_tokens) for share in assign(lengths, num_ranks)]
    return [list(ranks) for ranks in zip_longest(*cut, fillvalue=[])]


def packs(lengths: Sequence[int], num_ranks: int, capacity: int) -> list[list[list[int]]]:
    """Positions in a batch for each forward pass and, inside it, each rank, when sequences lie end to end.

    A pack holds at most `capacity` tokens, unless one example alone has more. There are as few passes as the balanced
    shares of the ranks allow, every rank takes part in each, and the packs of a rank are balanced, too.
    """
    shares = _balanced(range(len(lengths)), lengths, num_ranks)
    num_passes = 1
    while True:
        cut = [_balanced(share, lengths, num_passes) for share in shares]
        packed = [pack for packs_of_rank in cut for pack in packs_of_rank]
        if all(len(pack) <= 1 or sum(lengths[p] for p in pack) <= capacity for pack in packed):
            passes_ = [list(ranks) for ranks in zip(*cut, strict=True)]
            return [ranks for ranks in passes_ if any(ranks)]
        num_passes += 1


def _balanced(positions: Sequence[int], lengths: Sequence[int], num_bins: int) -> list[list[int]]:
    """`positions` in `num_bins` bins of nearly equal tokens: the longest that is left goes to the emptiest bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    tokens = [0] * num_bins
    for position in sorted(positions, key=lambda position: (-lengths[position], position)):
        emptiest = min(range(num_bins), key=tokens.__getitem__)
        bins[emptiest].append(position)
        tokens[emptiest] += lengths[position]
    return bins


def _cut(share: list[int], lengths: Sequence[int], size: int, tokens: int | None) -> list[list[int]]:
    """Neighbouring pieces of `share`, whose first example is the longest."""
    pieces: list[list[int]] = []
    for position in share:
        last = pieces[-1] if pieces else []
        fits = tokens is None or not last or lengths[last[0]] * (len(last) + 1) <= tokens
        if last and len(last) < size and fits:
            last.append(position)
        else:
            pieces.append([position])
    return pieces
