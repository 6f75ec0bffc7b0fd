"""Requests of an engine that keeps them in slots and deals its rows anew at every step: vLLM's V2 model runner.

Written against the interface of custom logits processors that vLLM 0.31 brings
(`vllm/v1/worker/gpu/sample/logits_processor/interface.py`); the adapter that vLLM loads is `logits_processor_v2`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from s1.forcing.batch import Batch, Row
from s1.forcing.requests import Params, Requests


class Lengths(Protocol):
    """A number per slot, on the host."""

    np: NDArray[np.int32]


class History(Protocol):
    """Token ids (slots, context), on the device."""

    gpu: torch.Tensor


class SlotState(Protocol):
    """What the runner shows of its slots."""

    all_token_ids: History
    prompt_len: Lengths
    prefill_len: Lengths


class Step(Protocol):
    """How the rows of one step are dealt. Without speculative decoding a row is a request."""

    idx_mapping_np: NDArray[np.int32]  # (rows,) slot
    seq_lens_upper_bound_np: NDArray[np.int32]  # (rows,) tokens before the one that is sampled: exact here
    input_ids: torch.Tensor  # (rows,) the last of these tokens


class Slots:
    """Follows the requests from their slots to the rows of each step."""

    def __init__(self, tokenizer: Any, state: SlotState, *, writes: bool) -> None:
        """`writes`: see `Requests`."""
        self._requests, self._batch = Requests(tokenizer, writes=writes), Batch(len(tokenizer))
        self._state = state
        self._rows: dict[int, Row] = {}

    def add(self, slot: int, params: Params) -> bool:
        """A request, new or back after it was preempted, takes `slot`. Whether it has a program."""
        row = self._requests.row(params, [])
        self._rows.pop(slot, None)
        if row is not None:
            self._rows[slot] = row
        return row is not None

    def apply(self, logits: torch.Tensor, step: Step) -> torch.Tensor:
        """Logits (rows, V), in place."""
        rows: dict[int, Row] = {}
        behind: list[tuple[int, int, Row]] = []
        for at, slot in enumerate(step.idx_mapping_np.tolist()):
            row, visible = self._rows.get(slot), int(step.seq_lens_upper_bound_np[at])
            if row is None or visible < self._state.prefill_len.np[slot]:
                continue  # a prompt that is not computed to its end: what is sampled is thrown away
            rows[at] = row
            if visible - self._state.prompt_len.np[slot] > len(row.output):
                behind.append((at, slot, row))
        if behind:
            last = step.input_ids.tolist()
            for at, slot, row in behind:
                start = int(self._state.prompt_len.np[slot]) + len(row.output)
                end = int(step.seq_lens_upper_bound_np[at])
                one = end - start == 1
                row.output += [last[at]] if one else self._state.all_token_ids.gpu[slot, start:end].tolist()
        self._batch.arrange(rows)
        return self._batch.apply(logits)
