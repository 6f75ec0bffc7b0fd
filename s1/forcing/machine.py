"""Budget forcing as one pure state machine over tokens (paper, section 3.1).

    start(program)                         -> state
    action(program, state)                 -> Sample | Force | Done
    advance(program, state, token, forced) -> state, tokens

A driver asks for the action, carries it out with its engine, and tells the machine every token that the engine sampled
and every token that it forced. Laws, tested as properties:

- the thinking never has more tokens than the cap, over all rounds together; the completion never more than the room;
- an end of the thinking is ignored while `num_ignore` or the minimum asks for it and the ignore string fits; otherwise
  it counts, so the number of rounds is bounded and a minimum that was not met has a reason (`unmet`);
- shortly before the cap, in the grace window, the thinking is ended where a sentence or a line ends;
- without a policy nothing is forced: the completion is what the model says by itself;
- without thinking all of that is the answer;
- the state can be had again from the (token, forced) pairs of the completion alone (`replay`).

A delimiter, or a stop token in the thinking, that is ignored never becomes part of the completion. The forced end lies
outside the cap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from s1.forcing.policy import Bound, Program

Phase = Literal[
    "thinking",
    "ending",  # the model wants to end its thinking, and cannot take the token back: what replaces it is due
    "forcing",  # what is pending is being forced
    "opening",  # behind an end of the thinking where nothing is forced: the model may open its answer itself
    "answer",
    "done",
]
Part = Literal[
    "thinking",
    "closing",  # forced text behind the thinking, outside the cap
    "control",  # delimiter, opening of the answer, stop token
    "answer",
]
EndedBy = Literal["natural"] | Bound
Unmet = Literal["context", "length", "ignore_str"]


class Token(NamedTuple):
    """One token of a completion."""

    id: int
    forced: bool
    part: Part


class State(NamedTuple):
    """Where a completion stands. Counts are tokens of the completion so far."""

    phase: Phase = "thinking"
    position: int = 0  # all tokens; held ones are not counted anywhere yet
    thinking_tokens: int = 0  # forced ones included
    forced_tokens: int = 0  # ignore strings, and what was written around the end of the thinking
    answer_tokens: int = 0  # sampled ones, the stop token left out
    rounds: int = 0  # ends that were ignored
    held: tuple[int, ...] = ()  # sampled, and perhaps the beginning of a delimiter, or of the opening of the answer
    pending: tuple[Token, ...] = ()  # to be forced next
    tail: tuple[int, ...] = ()  # the last two tokens of the thinking
    ended_by: EndedBy | None = None  # what ended the thinking; None: nothing has


@dataclass(frozen=True, slots=True)
class Sample:
    """Let the model go on for at most `limit` tokens, then ask again.

    In the thinking the delimiter and the stop tokens end it; `swap` takes their place when that is to be ignored.
    """

    limit: int
    swap: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Force:
    """Append `tokens`."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing may follow."""


def start(program: Program) -> State:
    """Where a completion begins."""
    return State() if program.enable_thinking else State(phase="answer")


def action(program: Program, state: State) -> Sample | Force | Done:
    """What has to happen next."""
    room = program.room - state.position - len(state.held)
    if state.phase == "done" or room <= 0:
        return Done()
    if state.phase == "forcing":
        return _force(state.pending, room)
    if state.phase == "answer":
        limit = room if program.max_answer is None else min(room, program.max_answer - state.answer_tokens)
        return Sample(limit) if limit > 0 else Done()
    if state.phase == "opening":
        return Sample(room)
    if state.phase == "ending" or _is_over(program, state):
        return _force(_due(program, closed(state)[0])[0], room)
    left = room if program.max_thinking is None else program.max_thinking - state.thinking_tokens - len(state.held)
    return Sample(min(left, room), _swap(program, state))


def advance(program: Program, state: State, token: int, forced: bool) -> tuple[State, tuple[Token, ...]]:
    """The state after `token`, and the tokens that became part of the completion by it.

    None did when the token may be the beginning of a delimiter, or is an end that is ignored or written otherwise.
    """
    if forced:
        return _after_forced(program, state, token)
    assert state.phase in ("thinking", "opening", "answer"), f"a token was sampled in phase {state.phase!r}"
    if state.phase == "thinking":
        return _after_thought(program, state, token)
    if state.phase == "opening":
        return _after_opening(program, state, token)
    state = state._replace(position=state.position + 1)
    if token in program.stop_ids:
        return state._replace(phase="done"), (Token(token, False, "control"),)
    return state._replace(answer_tokens=state.answer_tokens + 1), (Token(token, False, "answer"),)


def horizon(program: Program, state: State) -> int:
    """How many more tokens may be sampled before `action` can say anything else than `Sample` with the same `swap`.

    That holds if none of them is a stop token or begins a delimiter. 0 where nothing may be sampled.
    """
    todo = action(program, state)
    if not isinstance(todo, Sample):
        return 0
    if state.phase == "answer":
        return todo.limit
    if state.held:
        return 1
    cap, thinking = program.max_thinking, state.thinking_tokens
    steps = [todo.limit]
    if todo.swap is not None:
        if state.rounds >= program.num_ignore:
            steps.append(program.min_thinking - thinking)
        steps.append(program.room - state.position - len(todo.swap) + 1)
        if cap is not None:
            steps.append(cap - thinking - len(todo.swap) + 1)
    if cap is not None and program.grace:
        steps.append(max(1, cap - program.grace - thinking))
    return min(steps)


def thought(state: State, ids: Sequence[int]) -> State:
    """The state after sampled tokens of the thinking that lie within its `horizon`: `advance` of all at once."""
    if not ids:
        return state
    num = len(ids)
    return state._replace(
        position=state.position + num,
        thinking_tokens=state.thinking_tokens + num,
        tail=(*state.tail, *ids[-2:])[-2:],
    )


def closed(state: State) -> tuple[State, tuple[Token, ...]]:
    """The state when nothing comes of what is held, and what is held: it is thinking, or answer."""
    held, state = state.held, state._replace(held=())
    if state.phase != "opening":
        return thought(state, held), _sampled_thinking(held)
    num = len(held)
    state = state._replace(position=state.position + num, answer_tokens=state.answer_tokens + num)
    return state, tuple(Token(id, False, "answer") for id in held)


def replay(program: Program, pairs: Iterable[tuple[int, bool]]) -> State:
    """The state after a completion, from its (token, forced) pairs."""
    state = start(program)
    for token, forced in pairs:
        state, _ = advance(program, state, token, forced)
    return state


def ended_by(program: Program, state: State) -> EndedBy | None:
    """What ended the thinking of a finished completion; None when there was to be none."""
    return state.ended_by or (program.room_by if program.enable_thinking else None)


def finish_reason(state: State) -> Literal["stop", "length"]:
    """`stop` when the model ended its answer itself."""
    return "stop" if state.phase == "done" else "length"


def unmet(program: Program, state: State) -> Unmet | None:
    """Why a finished completion has fewer thinking tokens than the minimum; None when it has enough."""
    if state.thinking_tokens >= program.min_thinking:
        return None
    cause = ended_by(program, state)
    if cause == "natural":
        return "ignore_str"  # no more of it fitted under the cap or into the room
    assert cause not in ("budget", None), "a cap that nothing reduced is never below the minimum"
    return cause


def _sampled_thinking(ids: Iterable[int]) -> tuple[Token, ...]:
    return tuple(Token(id, False, "thinking") for id in ids)


def _is_over(program: Program, state: State) -> bool:
    """Whether no more may be thought: the cap is reached, or a good place to stop in the window before it."""
    if program.max_thinking is None:
        return False
    left = program.max_thinking - state.thinking_tokens - len(state.held)
    if left <= 0:
        return True
    if left > program.grace or state.held or state.thinking_tokens < program.min_thinking:
        return False
    return bool(state.tail) and program.breaks.after_sentence(state.tail)


def _force(pending: tuple[Token, ...], room: int) -> Force:
    return Force(tuple(token.id for token in pending[:room]))


def _swap(program: Program, state: State) -> tuple[int, ...] | None:
    """What replaces an end of the thinking here; None: it counts, because enough were ignored or no more fits."""
    if state.rounds >= program.num_ignore and state.thinking_tokens >= program.min_thinking:
        return None
    tokens = program.ignore[state.rounds % len(program.ignore)]
    if program.max_thinking is not None and state.thinking_tokens + len(tokens) > program.max_thinking:
        return None
    return tokens if state.position + len(tokens) <= program.room else None


def _due(program: Program, state: State) -> tuple[tuple[Token, ...], EndedBy | None]:
    """What is forced where the thinking cannot go on, and by what it ends then; None: it does not end."""
    opening = _forced((*program.delimiter, *program.answer_open), "control")
    if _is_over(program, state):
        closing = _forced(program.closing(state.tail), "closing")
        return (*closing, *opening, *_forced(program.answer_prefix, "answer")), program.cut_by
    swap = _swap(program, state)
    return (opening, "natural") if swap is None else (_forced(swap, "thinking"), None)


def _forced(tokens: Iterable[int], part: Part) -> tuple[Token, ...]:
    return tuple(Token(token, True, part) for token in tokens)


def _after_thought(program: Program, state: State, token: int) -> tuple[State, tuple[Token, ...]]:
    if token in program.stop_ids:
        # The model ends everything without an answer. That ends its thinking; the delimiter is written for it.
        state, flushed = closed(state)
        if not program.forces_nothing:
            return state._replace(phase="ending"), flushed
        state = state._replace(phase="done", position=state.position + 1, ended_by="natural")
        return state, (*flushed, Token(token, False, "control"))
    delimiter = program.delimiter
    if not state.held and token != delimiter[0]:
        return thought(state, (token,)), (Token(token, False, "thinking"),)
    seen = (*state.held, token)
    if seen != delimiter:
        keep = next(size for size in range(len(delimiter) - 1, -1, -1) if seen[len(seen) - size :] == delimiter[:size])
        known = len(seen) - keep
        return thought(state._replace(held=seen[known:]), seen[:known]), _sampled_thinking(seen[:known])
    state = state._replace(held=())
    if _swap(program, state) is not None:
        return state._replace(phase="ending"), ()
    state = state._replace(position=state.position + len(seen), ended_by="natural")
    said = tuple(Token(id, False, "control") for id in seen)
    if program.forces_nothing:
        return state._replace(phase="opening"), said
    return _with_pending(state, _forced(program.answer_open, "control")), said


def _after_opening(program: Program, state: State, token: int) -> tuple[State, tuple[Token, ...]]:
    seen, opening = (*state.held, token), program.answer_open
    if seen == opening:
        state = state._replace(phase="answer", held=(), position=state.position + len(seen))
        return state, tuple(Token(id, False, "control") for id in seen)
    if seen == opening[: len(seen)]:
        return state._replace(held=seen), ()
    state, flushed = closed(state)
    state, more = advance(program, state._replace(phase="answer"), token, False)
    return state, (*flushed, *more)


def _after_forced(program: Program, state: State, token: int) -> tuple[State, tuple[Token, ...]]:
    state, flushed = closed(state)
    if state.phase in ("thinking", "ending"):
        due, cause = _due(program, state)
        rounds = state.rounds + 1 if cause is None else state.rounds
        state = state._replace(pending=due, rounds=rounds, ended_by=cause)
    assert state.pending and state.pending[0].id == token, "a token was forced that is not due"
    first, rest = state.pending[0], state.pending[1:]
    state = state._replace(forced_tokens=state.forced_tokens + 1)
    is_thought = first.part == "thinking"
    state = thought(state, (first.id,)) if is_thought else state._replace(position=state.position + 1)
    return _with_pending(state, rest), (*flushed, first)


def _with_pending(state: State, pending: tuple[Token, ...]) -> State:
    """Forcing while something is pending, then answering or thinking on."""
    after: Phase = "thinking" if state.ended_by is None else "answer"
    return state._replace(phase="forcing" if pending else after, pending=pending)
