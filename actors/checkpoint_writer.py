"""Checkpoints that are written while the training goes on, from a copy of the states in host memory.

Imports DeepSpeed, so only workers import it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from torch.utils._pytree import tree_map_only


class BackgroundWriter(TorchCheckpointEngine):
    """Stands in for DeepSpeed's own: `save` returns when the state is copied, a thread writes the file."""

    def __init__(self, replaced: Any) -> None:
        super().__init__()
        self.zipfile_serialization = replaced.zipfile_serialization
        self._write: Callable[[object, str], None] = super().save
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writes: list[Future[None]] = []

    def save(self, state_dict: object, path: str) -> None:
        self._writes.append(self._thread.submit(self._write, on_host(state_dict), path))

    @property
    def idle(self) -> bool:
        """Whether all files are written, or one could not be, which `wait` tells."""
        return all(write.done() for write in self._writes)

    def wait(self) -> None:
        """Return when all files are written; raises what went wrong."""
        writes, self._writes = self._writes, []
        for write in writes:
            write.result()


def on_host(state: object) -> object:
    """`state` with every tensor copied to host memory; tensors that share their values go on sharing them."""
    copies: dict[tuple[object, ...], torch.Tensor] = {}

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    return tree_map_only(torch.Tensor, copy, state)
