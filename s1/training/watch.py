"""When a training should end before its end: a loss that is not a number, or one that jumps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 20


def complaint(records: Sequence[Mapping[str, Any]], record: Mapping[str, Any], spike_factor: float) -> str | None:
    """What is wrong with `record`, which follows `records`, or None.

    A spike is a loss above `spike_factor` times the median of the last WINDOW steps that is also back at half the first
    step's: a model that has learnt its batches by heart jumps by such factors far below. 0 looks for no spikes.
    """
    loss, norm = record["loss"], record["grad_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"step {record['step']}: loss {loss}, gradient norm {norm}"
    if not spike_factor or len(records) < WINDOW:
        return None
    usual = statistics.median(before["loss"] for before in records[-WINDOW:])
    if loss > spike_factor * usual and loss > records[0]["loss"] / 2:
        return f"step {record['step']}: loss {loss:.4g} after a median of {usual:.4g} (spike_factor={spike_factor:g})"
    return None
