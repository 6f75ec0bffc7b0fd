"""The machine inside vLLM's V1 model runner: a logits processor, for `logits_processors` of the engine's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from s1.forcing.batch import Batch
from s1.forcing.requests import Requests, puts_out

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig


class BudgetForcing(LogitsProcessor):
    """Carries out the programs of the requests in a batch; other requests are left alone."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        self._requests = Requests(tokenizer, writes=puts_out(vllm_config.parallel_config))
        self._batch = Batch(len(tokenizer))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests to their rows, in vLLM's order: removed, added, moved."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._batch.put(index, None)
        for index, params, _, output in batch_update.added:
            self._batch.put(index, self._requests.row(params, output))
        for one, other, direction in batch_update.moved:
            self._batch.move(one, other, swap=direction == MoveDirectionality.SWAP)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return self._batch.apply(logits)
