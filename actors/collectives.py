"""Numbers of all ranks together. Every rank makes the same calls in the same order."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def total(value: float | torch.Tensor, device: torch.device) -> float:
    """Sum of `value` over all ranks."""
    import torch
    from torch import distributed

    summed = torch.as_tensor(value, dtype=torch.float32, device=device).clone()
    distributed.all_reduce(summed)
    return float(summed)


def finish(device: torch.device) -> None:
    """Wait until `device` has done what it was given; a CPU has by then."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Bytes that the fullest rank has had in use at once: on its GPU, else in the process."""
    import torch
    from torch import distributed

    on_gpu = device.type == "cuda"
    used = torch.cuda.max_memory_reserved() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.tensor(float(used), device=device, dtype=torch.float64)
    distributed.all_reduce(peak, op=distributed.ReduceOp.MAX)
    return float(peak)
