"""Requests with a program inside an engine's process: made from what their sampling parameters carry, and remembered.

A request that the engine preempts comes back later with the tokens that it had. Which of them were forced only its
`Row` knows, so that is kept for a while.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from s1.forcing.batch import Drawing, Row
from s1.forcing.breaks import Breaks
from s1.forcing.in_engine import from_wire, to_wire
from s1.forcing.marks import Place
from s1.forcing.policy import Program

ARGUMENT = "budget_forcing"
REMEMBERED_BATCHES = 8


class Params(Protocol):
    """The part of vLLM's `SamplingParams` that is read here."""

    temperature: float
    top_k: int
    top_p: float
    extra_args: dict[str, Any] | None


def extra_args(program: Program, place: Place, seed: int) -> dict[str, Any]:
    """`SamplingParams.extra_args` of a request under `program`, whose replaced ends are marked in `place`."""
    values = {"id": uuid.uuid4().hex, "program": to_wire(program), "marks": place.to_wire(), "seed": seed}
    return {ARGUMENT: values}


class Requests:
    """Rows by the id that `extra_args` gave them."""

    def __init__(self, tokenizer: Any, max_num_seqs: int) -> None:
        def decode(ids: Sequence[int]) -> str:
            return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

        self._breaks = Breaks(decode)
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._max = REMEMBERED_BATCHES * max_num_seqs

    def row(self, params: Params, output: list[int] | None) -> Row | None:
        """The row of a request that enters the batch; None for one without a program. It keeps `output`, if given."""
        wire: Mapping[str, Any] | None = (params.extra_args or {}).get(ARGUMENT)
        if wire is None:
            return None
        row = self._rows.pop(wire["id"], None)
        if row is None and output:
            return None  # forgotten: the driver ends the request at the first token that should have been forced
        if row is None:
            program = from_wire(wire["program"], self._breaks)
            drawing = Drawing(params.temperature, params.top_k, params.top_p, wire["seed"])
            row = Row(program, [], drawing, Place.from_wire(wire["marks"]).mark)
        if output is not None:
            row.output = output
        self._rows[wire["id"]] = row
        if len(self._rows) > self._max:
            self._rows.popitem(last=False)
        return row
