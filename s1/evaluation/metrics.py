"""The paper's three metrics of a test-time scaling method (section 3.2).

A method is a set of runs at different compute; accuracies are percentage points.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log2


def control(thinking_tokens: Sequence[float], max_tokens: float, min_tokens: float = 0) -> float:
    """Percentage of runs whose thinking tokens lie in [min_tokens, max_tokens]."""
    if not thinking_tokens:
        raise ValueError("control needs at least one run")
    return 100 * sum(min_tokens <= tokens <= max_tokens for tokens in thinking_tokens) / len(thinking_tokens)


def scaling(thinking_tokens: Sequence[float], accuracy_pct: Sequence[float]) -> float | None:
    """Mean slope over all pairs of runs, in percentage points per doubling of the thinking tokens.

    The published values come out with log2 of the tokens as compute, not with the tokens themselves. Pairs of equal
    compute have no slope and are left out; None without any other pair.
    """
    if len(thinking_tokens) != len(accuracy_pct):
        raise ValueError(f"{len(thinking_tokens)} token counts but {len(accuracy_pct)} accuracies: one of each per run")
    if any(tokens <= 0 for tokens in thinking_tokens):
        raise ValueError("scaling needs thinking tokens above 0: log2 of 0 is not defined")
    runs = sorted(zip(map(log2, thinking_tokens), accuracy_pct, strict=True))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(runs, 2) if b[0] > a[0]]
    return sum(slopes) / len(slopes) if slopes else None


def performance(accuracy_pct: Sequence[float]) -> float:
    """The best accuracy of the method."""
    return max(accuracy_pct)
