"""The driver for any engine that continues a token prompt: stop at the delimiter, append, continue.

Requests are independent of each other: nobody waits for another request's round to end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from s1.forcing.machine import Done, Force, Sample, State, Token, action, advance, closed, start
from s1.forcing.policy import Program


class Engine(Protocol):
    """Continues a token prompt. Closing the generator frees what the request holds in the engine."""

    def __call__(
        self, prompt: Sequence[int], *, max_tokens: int, stop_ids: frozenset[int], segment: int
    ) -> AsyncGenerator[Sequence[int], None]:
        """New ids as they come: at most `max_tokens`, the last one a member of `stop_ids` when that ended them.

        `segment` counts the calls for one completion, so that each can have random numbers of its own.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens that were added to a completion, and where it stands after them."""

    tokens: tuple[Token, ...]
    state: State


def needs_pieces(program: Program) -> bool:
    """Whether a segment may have to end where no member of `stop_ids` does: then its tokens have to be seen at once.

    Without that an engine may give out a segment as a whole.
    """
    return len(program.delimiter) != 1 or program.grace > 0


async def run(program: Program, prompt: Sequence[int], engine: Engine) -> AsyncGenerator[Step, None]:
    """One completion of `prompt` under `program`, step by step; the last step's state is the final one.

    RuntimeError when the engine ends a segment that nothing ended.
    """
    state, ids, segment = start(program), list(prompt), 0
    while not isinstance(todo := action(program, state), Done):
        if isinstance(todo, Force):
            state, tokens = _forced(program, state, todo.tokens)
            ids += (token.id for token in tokens)
            yield Step(tokens, state)
            continue
        before = state
        stop_ids = _stop_ids(program, state)
        prefix = [*ids, *state.held]
        async with aclosing(engine(prefix, max_tokens=todo.limit, stop_ids=stop_ids, segment=segment)) as stream:
            async for new in stream:
                state, tokens = _sampled(program, state, new)
                ids += (token.id for token in tokens)
                if tokens:
                    yield Step(tokens, state)
                if not isinstance(action(program, state), Sample):
                    break  # not in every case has the engine seen that by itself
        if state == before:
            raise RuntimeError("the engine ended a segment of the completion without a token")
        segment += 1
    state, tokens = closed(state)
    yield Step(tokens, state)


def _stop_ids(program: Program, state: State) -> frozenset[int]:
    """Ids at which the engine has to stop by itself; a delimiter of several tokens is recognised as it comes.

    Where nothing is forced the engine is not stopped at an end of the thinking: it samples as it does by itself.
    """
    thinking = state.phase == "thinking" and len(program.delimiter) == 1 and not program.forces_nothing
    return program.stop_ids | set(program.delimiter) if thinking else program.stop_ids


def _forced(program: Program, state: State, ids: Sequence[int]) -> tuple[State, tuple[Token, ...]]:
    tokens: list[Token] = []
    for id in ids:
        state, more = advance(program, state, id, True)
        tokens += more
    return state, tuple(tokens)


def _sampled(program: Program, state: State, ids: Sequence[int]) -> tuple[State, tuple[Token, ...]]:
    """Feed sampled ids until the machine wants something else than more of them; the rest is dropped."""
    tokens: list[Token] = []
    for id in ids:
        if not isinstance(action(program, state), Sample):
            break
        state, more = advance(program, state, id, False)
        tokens += more
    return state, tuple(tokens)
