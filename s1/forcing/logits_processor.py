"""The machine inside vLLM: a logits processor of its V1 model runner.

Give the engine `logits_processors=[LOGITS_PROCESSOR]` and `logprobs_mode=LOGPROBS_MODE`, and the request
`extra_args=extra_args(program)` and `logprobs=0`. A forced token is the only one that is left to sample; the
value of its logit, which comes back as its logprob, marks it as forced.

A processor cannot take back a token. So the end of the thinking is decided before the token is drawn: it comes with the
probability that the model gives to everything that ends the thinking, and is replaced; otherwise these tokens are out.
That is the same distribution as drawing and replacing, before top-k and top-p.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from s1.forcing.in_engine import Row, from_wire, to_wire
from s1.forcing.machine import Force, Sample
from s1.forcing.policy import Program

if TYPE_CHECKING:
    from vllm.config import VllmConfig

LOGITS_PROCESSOR = "s1.forcing.logits_processor:BudgetForcing"
LOGPROBS_MODE = "processed_logits"
ARGUMENT = "budget_forcing"
GREEDY_BELOW = 1e-5  # vLLM's own bound of a temperature that means greedy

REMEMBERED_BATCHES = 8

_FORCED_LOGIT = 1e8


def extra_args(program: Program) -> dict[str, Any]:
    """`SamplingParams.extra_args` of a request under `program`."""
    return {ARGUMENT: {"id": uuid.uuid4().hex, "program": to_wire(program)}}


def was_forced(logit: float) -> bool:
    """Whether a token with this processed logit was forced. Temperatures are at most 100."""
    return logit > _FORCED_LOGIT / 1e3


class BudgetForcing(LogitsProcessor):
    """Carries out the programs of the requests in a batch; other requests are left alone."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self._line_ends = frozenset(token for token, text in enumerate(texts) if text.endswith("\n"))
        self._rows: dict[int, Row] = {}
        # A request that vLLM preempts comes back with the tokens that it had; which were forced is only known here.
        self._by_id: OrderedDict[str, Row] = OrderedDict()
        self._num_remembered = REMEMBERED_BATCHES * vllm_config.scheduler_config.max_num_seqs

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests to their rows, in vLLM's order: removed, added, moved."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._put(index, self._row(params, output))
        for one, other, direction in batch_update.moved:
            first, second = self._rows.pop(one, None), self._rows.pop(other, None)
            self._put(other, first)
            if direction == MoveDirectionality.SWAP:
                self._put(one, second)

    def _put(self, index: int, row: Row | None) -> None:
        if row is None:
            self._rows.pop(index, None)
        else:
            self._rows[index] = row

    def _row(self, params: SamplingParams, output: list[int]) -> Row | None:
        wire = (params.extra_args or {}).get(ARGUMENT)
        if wire is None:
            return None
        row = self._by_id.pop(wire["id"], None)
        if row is None and output:
            return None  # forgotten: the driver ends the request at the first token that should have been forced
        if row is None:
            program = from_wire(wire["program"], self._line_ends.__contains__)
            row = Row(program, output, params.temperature, params.seed)
        row.output = output
        self._by_id[wire["id"]] = row
        if len(self._by_id) > self._num_remembered:
            self._by_id.popitem(last=False)
        return row

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) with what is forced forced, and what may not be sampled out."""
        forced: dict[int, int] = {}
        watched: list[int] = []
        for index, row in self._rows.items():
            todo = row.plan()
            if isinstance(todo, Force):
                forced[index] = todo.tokens[0]
            elif isinstance(todo, Sample) and row.enders:
                watched.append(index)
        if watched:
            forced |= self._ended(logits, watched)
        for index, token in forced.items():
            self._rows[index].force(token)
        if forced:
            rows = torch.tensor(list(forced), device=logits.device)
            tokens = torch.tensor(list(forced.values()), device=logits.device)
            logits[rows] = -torch.inf
            logits[rows, tokens] = _FORCED_LOGIT
        return logits

    def _ended(self, logits: torch.Tensor, watched: list[int]) -> dict[int, int]:
        """Rows whose model wants to end its thinking now, with what replaces the end. Bars the end in the others."""
        rows = self._rows
        ended: dict[int, int] = {}
        greedy = [index for index in watched if rows[index].temperature < GREEDY_BELOW]
        if greedy:
            likeliest = logits[greedy].argmax(dim=-1).tolist()
            found = (index for index, token in zip(greedy, likeliest, strict=True) if token in rows[index].enders)
            ended |= {index: rows[index].replacement() for index in found}
        for index in watched:
            row = rows[index]
            if row.temperature < GREEDY_BELOW:
                continue
            enders = list(row.enders)
            scaled = logits[index] / row.temperature  # (V,)
            share = (scaled[enders].logsumexp(0) - scaled.logsumexp(0)).exp().item()
            if row.draw() < share:
                ended[index] = row.replacement()
            else:
                logits[index, enders] = -torch.inf
        return ended
