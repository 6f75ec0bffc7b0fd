"""The driver for an engine that carries out the machine itself, in one pass (see `logits_processor`).

The engine gets the program with the request and answers with (token, forced) pairs: which tokens were forced cannot be
seen from their ids, because a model may say "Wait" by itself.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Any, Protocol

from s1.errors import UserError
from s1.forcing.machine import Done, Force, Sample, State, Token, action, advance, closed
from s1.forcing.policy import Program
from s1.forcing.segments import Step


class ForcingEngine(Protocol):
    """Continues a token prompt under a program. Closing the generator frees what the request holds in the engine."""

    def __call__(self, prompt: Sequence[int], program: Program) -> AsyncGenerator[Iterable[tuple[int, bool]], None]:
        """New (token, forced) pairs as they come: at most `program.room`, ended by a stop token of the answer."""
        ...


async def run(program: Program, prompt: Sequence[int], engine: ForcingEngine) -> AsyncGenerator[Step, None]:
    """One completion of `prompt` under `program`, step by step; the last step's state is the final one.

    RuntimeError when the engine does something else than the program.
    """
    state = State()
    async with aclosing(engine(prompt, program)) as stream:
        async for pairs in stream:
            tokens: list[Token] = []
            for id, forced in pairs:
                todo = action(program, state)
                if isinstance(todo, Done):
                    break
                if isinstance(todo, Force) and not forced:
                    raise RuntimeError("the engine sampled a token where one had to be forced")
                state, more = advance(program, state, id, forced)
                tokens += more
            if tokens:
                yield Step(tuple(tokens), state)
            if isinstance(action(program, state), Done):
                break
    if not isinstance(action(program, state), Done):
        raise RuntimeError("the engine ended a completion that nothing ended")
    state, left = closed(state)
    yield Step(left, state)


def check(program: Program) -> None:
    """UserError when an engine cannot carry out `program`: it can replace a token, not take back several."""
    if len(program.delimiter) != 1:
        raise UserError(f"the delimiter has {len(program.delimiter)} tokens in this tokenizer; use the segments driver")


_NOT_SENT = ("ends_line",)


def to_wire(program: Program) -> dict[str, Any]:
    """The program in values that JSON and msgpack know; what follows from the tokenizer is left out."""
    values = {field.name: getattr(program, field.name) for field in fields(program) if field.name not in _NOT_SENT}
    return {**values, "stop_ids": sorted(program.stop_ids)}


def from_wire(values: Mapping[str, Any], ends_line: Callable[[int], bool]) -> Program:
    """The program of `to_wire`."""
    received: dict[str, Any] = {**values, "ends_line": ends_line, "stop_ids": frozenset(values["stop_ids"])}
    for name in ("delimiter", "answer_open", "newline", "before_end", "answer_prefix"):
        received[name] = tuple(values[name])
    received["ignore"] = tuple(tuple(string) for string in values["ignore"])
    return Program(**received)


class Row:
    """One request inside the engine: what to do with the model's next distribution.

    `output` is the engine's own list of the request's tokens, which grows.
    """

    def __init__(self, program: Program, output: list[int], temperature: float, seed: int | None) -> None:
        self.program, self.output, self.temperature = program, output, temperature
        self.draw = random.Random(seed).random  # None: seeded by the operating system
        self._state, self._seen = State(), 0
        self._forced: int | None = None  # what was forced at `_seen`
        self._todo: Force | Sample | Done = action(program, self._state)

    def plan(self) -> Force | Sample | Done:
        """The machine's action after the tokens that were put out since the last call."""
        while self._seen < len(self.output):
            token = self.output[self._seen]
            self._state, _ = advance(self.program, self._state, token, token == self._forced)
            self._todo = action(self.program, self._state)
            self._seen, self._forced = self._seen + 1, None
        self._forced = None
        return self._todo

    @property
    def enders(self) -> tuple[int, ...]:
        """Ids that must not be put out now, and are replaced when the model wants them."""
        if self._state.phase != "thinking" or not isinstance(self._todo, Sample):
            return ()
        delimiter = () if self._todo.swap is None else self.program.delimiter
        return (*delimiter, *self.program.stop_ids)

    def replacement(self) -> int:
        """The first token of what replaces an end here."""
        swap = self._todo.swap if isinstance(self._todo, Sample) else None
        return self.program.delimiter[0] if swap is None else swap[0]

    def force(self, token: int) -> None:
        """The engine was made to put out `token` next."""
        self._forced = token
