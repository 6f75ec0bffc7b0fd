"""How many steps a training takes and the learning rate of each (PAPER.md, section 2)."""

from __future__ import annotations

import math


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Optimiser steps of one epoch; its last, partial batch is a step like any other."""
    return math.ceil(num_examples / batch_size)


def num_steps(num_examples: int, batch_size: int, epochs: int, max_steps: int | None = None) -> int:
    """Optimiser steps of the whole training; `max_steps` ends it earlier."""
    steps = steps_per_epoch(num_examples, batch_size) * epochs
    return steps if max_steps is None else min(steps, max_steps)


def num_warmup_steps(steps: int, warmup_ratio: float) -> int:
    """Steps of the linear warm-up: 16 of 315 at the paper's ratio of 0.05."""
    return math.ceil(steps * warmup_ratio)


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Rate of optimiser step `step` (from 0): linear from 0 to `peak`, then half a cosine that reaches 0 at `steps`."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
