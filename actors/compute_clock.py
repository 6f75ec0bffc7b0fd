"""How long a worker itself computes in a step: what tells a slow worker, or one with too much to do, from the others.

The time of a whole pass does not tell it. Under ZeRO-3 every layer begins with a collective operation, so all workers
take as long as the slowest one, forwards and backwards. What is measured instead are the forward passes of the linear
layers, recomputed ones included: each begins when its weights are there and ends before anything is exchanged, under
every ZeRO stage and with shared sequences. They are most of the forward pass; attention, the head, whose work goes by
the positions that count, and the backward pass are left out, so the seconds are compared between workers, never taken
for the whole.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import distributed, nn


class ComputeClock:
    """Measures between `start` and `stop`. Make it after DeepSpeed's engine, whose gathering must come first."""

    def __init__(self, model: nn.Module, device: torch.device, *, head: nn.Module | None = None) -> None:
        self._on_gpu = device.type == "cuda"
        self._runs = False
        self._began: Any = None
        self._seconds = 0.0
        # On a GPU the host only queues work: pairs of events, used again in every step, stand in its queue.
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._num_used = 0
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not head:
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end, prepend=True)  # before the weights are given back

    def start(self) -> None:
        """Forget what was measured and measure from here on."""
        self._runs, self._began, self._seconds, self._num_used = True, None, 0.0, 0

    def stop(self) -> float:
        """Seconds since `start`. On a GPU this waits for the last measured layer."""
        self._runs = False
        if not self._num_used:
            return self._seconds
        used = self._events[: self._num_used]
        used[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in used) / 1000

    def _begin(self, *_: object) -> None:
        if not self._runs:
            return
        if not self._on_gpu:
            self._began = time.perf_counter()
            return
        if self._num_used == len(self._events):
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events.append(pair)
        self._began = self._events[self._num_used]
        self._began[0].record()

    def _end(self, *_: object) -> None:
        # A layer that is computed again may be left before its end, when nothing more of it is needed.
        if not self._runs or self._began is None:
            return
        if self._on_gpu:
            self._began[1].record()
            self._num_used += 1
        else:
            self._seconds += time.perf_counter() - self._began
        self._began = None


def straggling(seconds: float, device: torch.device) -> dict[str, float]:
    """`straggling`: mean over longest of what the ranks have measured, and `slowest_rank`; nothing of a single rank.

    Every rank calls this.
    """
    num_ranks = distributed.get_world_size()
    if num_ranks == 1:
        return {}
    mine = torch.tensor([seconds], device=device, dtype=torch.float64)
    gathered = [torch.empty_like(mine) for _ in range(num_ranks)]
    distributed.all_gather(gathered, mine)
    measured = [float(value) for value in gathered]
    longest = max(measured)
    if not longest:  # a model without linear layers
        return {}
    return {"straggling": round(sum(measured) / num_ranks / longest, 4), "slowest_rank": measured.index(longest)}
