"""The machine inside vLLM's V2 model runner, for vLLM 0.31 and later. Nothing else imports this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.worker.gpu.sample.logits_processor.interface import (  # pyright: ignore[reportMissingImports]
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

from s1.forcing.requests import puts_out
from s1.forcing.slots import Slots

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class BudgetForcing(LogitsProcessor):  # pyright: ignore[reportUntypedBaseClass]
    """Carries out the programs of the requests in a batch; other requests are left alone."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        from transformers import AutoTokenizer

        if vllm_config.speculative_config is not None:
            raise ValueError("budget forcing cannot take back draft tokens; turn speculative decoding off")
        tokenizer: Any = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        self._slots = Slots(tokenizer, req_states, writes=puts_out(vllm_config.parallel_config))

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        return self._slots.add(req_idx, sampling_params)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        return self._slots.apply(logits, ctx)
