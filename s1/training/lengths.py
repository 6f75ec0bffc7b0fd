"""How long the traces of a selection are: those of a table, or what to expect of one that is not there yet."""

from __future__ import annotations

from typing import Literal

Histogram = Literal["s1", "s1.1"]

# Tokens of the 1,000 traces of the paper's two data sets, read from the vector graphics of the authors' repository
# (visuals/s11/traces.pdf): bins of BIN_TOKENS from FIRST_TOKEN on.
FIRST_TOKEN, BIN_TOKENS = 356, 517.64
COUNTS: dict[Histogram, tuple[int, ...]] = {
    "s1": (14, 42, 23, 20, 16, 34, 72, 136, 159, 197, 167, 53, 49, 14, 4),
    "s1.1": (
        *(1, 14, 9, 21, 20, 29, 41, 30, 41, 30, 46, 38, 31, 46, 40, 44, 39, 48, 24, 30, 48, 22, 28, 34, 27),
        *(23, 20, 37, 28, 21, 32, 26, 7, 5, 6, 3, 3, 1, 0, 2, 1, 0, 1, 1, 0, 0, 0, 0, 0, 2),
    ),
}


def published(histogram: Histogram, size: int) -> list[int]:
    """Tokens of `size` examples as in the paper's data set, sorted, evenly spread inside each bin up to its end."""
    counts = COUNTS[histogram]
    lengths = [
        FIRST_TOKEN + BIN_TOKENS * (index + (number + 1) / count)
        for index, count in enumerate(counts)
        for number in range(count)
    ]
    return _resized([round(length) for length in lengths], size)


def spread(mean_tokens: float, longest_tokens: int, size: int) -> list[int]:
    """Tokens of `size` examples, evenly spread around `mean_tokens` up to `longest_tokens`."""
    shortest = max(1.0, 2 * mean_tokens - longest_tokens)
    if size == 1:
        return [longest_tokens]
    return [round(shortest + (longest_tokens - shortest) * index / (size - 1)) for index in range(size)]


def _resized(lengths: list[int], size: int) -> list[int]:
    """`size` of the sorted `lengths` at equal distances, the longest among them."""
    if size == 1:
        return [lengths[-1]]
    return [lengths[round(index * (len(lengths) - 1) / (size - 1))] for index in range(size)]
