"""The driver for an engine that carries out the machine itself, in one pass (see `batch` and `logits_processor`).

The engine gets the program with the request. From its tokens the driver's own machine knows which were forced, except
where the engine put something in place of an end: that the engine has to tell.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Any, Protocol

from s1.errors import UserError
from s1.forcing.breaks import Breaks
from s1.forcing.machine import Done, Force, Token, action, advance, closed, start
from s1.forcing.policy import Program
from s1.forcing.segments import Step


class ForcingEngine(Protocol):
    """Continues a token prompt under a program. Closing the generator frees what the request holds in the engine."""

    def __call__(self, prompt: Sequence[int], program: Program) -> AsyncGenerator[Iterable[tuple[int, bool]], None]:
        """New tokens as they come, and whether each was put in place of an end of the thinking.

        At most `program.longest`, ended by a stop token of the answer.
        """
        ...


async def run(program: Program, prompt: Sequence[int], engine: ForcingEngine) -> AsyncGenerator[Step, None]:
    """One completion of `prompt` under `program`, step by step; the last step's state is the final one.

    RuntimeError when the engine does something else than the program.
    """
    state = start(program)
    todo = action(program, state)
    async with aclosing(engine(prompt, program)) as stream:
        async for new in stream:
            tokens: list[Token] = []
            for id, replaced in new:
                if isinstance(todo, Done):
                    break
                if isinstance(todo, Force) and todo.tokens[0] != id:
                    raise RuntimeError("the engine sampled a token where one had to be forced")
                state, more = advance(program, state, id, replaced or isinstance(todo, Force))
                tokens += more
                todo = action(program, state)
            if tokens:
                yield Step(tuple(tokens), state)
            if isinstance(todo, Done):
                break
    if not isinstance(todo, Done):
        raise RuntimeError("the engine ended a completion that nothing ended")
    state, left = closed(state)
    yield Step(left, state)


def check(program: Program) -> None:
    """UserError when an engine cannot carry out `program`: it can replace a token, not take back several."""
    if len(program.delimiter) != 1:
        raise UserError(f"the delimiter has {len(program.delimiter)} tokens in this tokenizer; use the segments driver")


_NOT_SENT = ("breaks",)


def to_wire(program: Program) -> dict[str, Any]:
    """The program in values that JSON and msgpack know; what follows from the tokenizer is left out."""
    values = {field.name: getattr(program, field.name) for field in fields(program) if field.name not in _NOT_SENT}
    return {**values, "stop_ids": sorted(program.stop_ids)}


def from_wire(values: Mapping[str, Any], breaks: Breaks) -> Program:
    """The program of `to_wire`."""
    received: dict[str, Any] = {**values, "breaks": breaks, "stop_ids": frozenset(values["stop_ids"])}
    for name in ("delimiter", "answer_open", "newline", "before_end", "answer_prefix"):
        received[name] = tuple(values[name])
    received["ignore"] = tuple(tuple(string) for string in values["ignore"])
    return Program(**received)
