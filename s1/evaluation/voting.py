"""What k samples of one question are worth: at least one right, or the right one in the majority."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

from s1.grading.extract import final_answer
from s1.grading.normalise import normalise, squeeze

_SUBSETS = 200  # of the samples that stand for all of them


def sizes(num_samples: int) -> list[int]:
    """The k that are reported: powers of two, and all samples."""
    powers = [2**power for power in range(num_samples.bit_length()) if 2**power <= num_samples]
    return sorted({*powers, num_samples})


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement, is right."""
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k}: must be between 1 and the number of samples, {num_samples}")
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def vote(content: str) -> str:
    """The final answer of a response in its normal form; empty: no vote."""
    return squeeze(normalise(final_answer(content))).casefold() if content.strip() else ""


def majority_at_k(votes: Sequence[str], correct: Sequence[bool], k: int, seed: int = 0) -> float:
    """Probability that the majority of k samples, drawn without replacement, is right.

    Right answers count as one whatever their notation; wrong ones are told apart by their normal form. A tie is
    decided by lot. Where there are many subsets, some 200 stand for all of them.
    """
    if not 1 <= k <= len(votes):
        raise ValueError(f"k={k}: must be between 1 and the number of samples, {len(votes)}")
    ballots = [(True, "") if right else (False, text) for text, right in zip(votes, correct, strict=True)]
    if comb(len(ballots), k) <= _SUBSETS:
        subsets = list(combinations(ballots, k))
    else:
        draw = random.Random(seed)
        subsets = [tuple(draw.sample(ballots, k)) for _ in range(_SUBSETS)]
    return sum(map(_right, subsets)) / len(subsets)


def _right(ballots: Sequence[tuple[bool, str]]) -> float:
    """Share of the winners that are right: there are several in a tie. Nobody votes: wrong."""
    counts = Counter(ballot for ballot in ballots if ballot != (False, ""))
    most = max(counts.values(), default=0)
    winners = [ballot for ballot, count in counts.items() if count == most]
    return (True, "") in winners and 1 / len(winners)


def majority(answers: Sequence[str], same: Callable[[str, str], bool]) -> int:
    """Index of the first answer of the largest group of answers that are the `same`; earlier groups win ties.

    Empty answers have no vote. ValueError without any answer.
    """
    if not answers:
        raise ValueError("a majority needs at least one answer")
    groups: list[list[int]] = []
    for index, answer in enumerate(answers):
        if not answer.strip():
            continue
        group = next((group for group in groups if same(answers[group[0]], answer)), None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return max(groups, key=len)[0] if groups else 0
