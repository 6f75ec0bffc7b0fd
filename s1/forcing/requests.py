"""Requests with a program inside an engine's process, made from what their sampling parameters carry.

Nothing is remembered here: a request that the engine preempts comes back with the tokens that it had, and the marks
say which of them were put in place of an end. The rest follows from the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from s1.forcing.batch import Drawing, Row
from s1.forcing.breaks import Breaks
from s1.forcing.in_engine import from_wire, to_wire
from s1.forcing.marks import Place, Seen
from s1.forcing.policy import Program

ARGUMENT = "budget_forcing"


class Params(Protocol):
    """The part of vLLM's `SamplingParams` that is read here."""

    temperature: float
    top_k: int
    top_p: float
    extra_args: dict[str, Any] | None


class Parallel(Protocol):
    """The part of vLLM's `ParallelConfig` that is read here."""

    rank: int
    tensor_parallel_size: int


def puts_out(parallel: Parallel) -> bool:
    """Whether the tokens of this process are those that leave the engine: the first of every tensor parallel group."""
    return parallel.rank % parallel.tensor_parallel_size == 0


def extra_args(program: Program, place: Place, seed: int) -> dict[str, Any]:
    """`SamplingParams.extra_args` of a request under `program`, whose replaced ends are marked in `place`."""
    return {ARGUMENT: {"program": to_wire(program), "marks": place.to_wire(), "seed": seed}}


class Requests:
    """Makes the rows of requests that enter a batch."""

    def __init__(self, tokenizer: Any, *, writes: bool) -> None:
        """`writes`: of the processes that compute one model together, this is the one whose tokens are put out.

        It alone writes the marks. One that lags behind it would take away those of tokens that are out already.
        """
        self._writes = writes

        def decode(ids: Sequence[int]) -> str:
            return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

        self._breaks = Breaks(decode)

    def row(self, params: Params, output: list[int]) -> Row | None:
        """The row of a request, new or back after it was preempted; None for one without a program.

        `output` is the list to which the engine adds the request's tokens.
        """
        wire: Mapping[str, Any] | None = (params.extra_args or {}).get(ARGUMENT)
        if wire is None:
            return None
        program = from_wire(wire["program"], self._breaks)
        drawing = Drawing(params.temperature, params.top_k, params.top_p, wire["seed"])
        place = Place.from_wire(wire["marks"])
        return Row(program, output, drawing, place if self._writes else Seen(place))
