"""Too easy, or wrong: what the solvers and the reference say about a row (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def solved(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether any solver solved the question; None when no verdict was possible."""
    known = [verdict for verdict in verdicts if verdict is not None]
    return any(known) if known else None


def reason_to_drop(
    solver_correct: bool | None, trace_correct: bool | None, *, drop_solved: bool = True, drop_wrong: bool = True
) -> str | None:
    """`solved`: too easy to teach anything; `trace_wrong`: teaches something false; None: keep.

    Without a reference answer there is no verdict, and nothing is dropped.
    """
    if drop_solved and solver_correct:
        return "solved"
    if drop_wrong and trace_correct is False:
        return "trace_wrong"
    return None


def failure_rate(num_attempts: int, num_solved: int) -> float:
    """How hard a question is, between 0 and 1: the share of attempts that failed, drawn towards one half by Laplace's
    rule, so that few attempts say little and none says nothing.
    """
    return (num_attempts - num_solved + 1) / (num_attempts + 2)


def percentiles(values: Sequence[int]) -> NDArray[np.float64]:
    """Share of values that are not larger, for each of `values`: in (0, 1], equal for equal values."""
    column = np.asarray(values)
    return np.searchsorted(np.sort(column), column, side="right") / max(1, len(column))
