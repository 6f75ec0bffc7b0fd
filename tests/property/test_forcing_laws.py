"""Laws of the budget machine and of its segments driver, against a model that says whatever Hypothesis thinks of."""

import asyncio
import random
from dataclasses import replace

from forcing_cases import BREAKS, DELIMITERS, NEWLINE, OPEN, PREFIX, SCRIPTS, STOP, WAIT, programs
from hypothesis import given
from hypothesis import strategies as st

from s1.forcing import segments
from s1.forcing.machine import (
    Sample,
    action,
    advance,
    closed,
    ended_by,
    finish_reason,
    horizon,
    replay,
    thought,
    unmet,
)
from s1.forcing.policy import Program


def speaker(script, chunk=1):
    """An engine that says the script whatever it is asked, then word 0 for ever, `chunk` tokens at a time."""
    words = iter(script)
    calls = []

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        calls.append((list(prompt), segment))
        said = []
        while len(said) < max_tokens and not (said and said[-1] in stop_ids):
            said.append(next(words, 0))
        for start in range(0, len(said), chunk):
            yield said[start : start + chunk]

    engine.calls = calls
    return engine


def complete(program, engine, prompt=(0,)):
    async def collect():
        return [step async for step in segments.run(program, prompt, engine)]

    steps = asyncio.run(collect())
    return [token for step in steps for token in step.tokens], steps[-1].state


@given(programs(), SCRIPTS, st.integers(1, 5))
def test_bounds_are_kept_and_counts_are_true(program, script, chunk):
    tokens, state = complete(program, speaker(script, chunk))
    thinking = [token for token in tokens if token.part == "thinking"]
    assert len(tokens) == state.position <= program.longest <= program.room
    assert len(thinking) == state.thinking_tokens
    assert program.max_thinking is None or len(thinking) <= program.max_thinking
    assert sum(token.forced for token in tokens) == state.forced_tokens
    answer = [token for token in tokens if token.part == "answer" and not token.forced]
    assert len(answer) == state.answer_tokens <= (program.max_answer or program.room)


@given(programs(), SCRIPTS)
def test_a_completion_is_exhausted_or_answered(program, script):
    tokens, state = complete(program, speaker(script))
    if finish_reason(state) == "stop":
        assert tokens[-1].id == STOP and not tokens[-1].forced
    else:
        assert state.position == program.room or state.answer_tokens == program.max_answer
    if ended_by(program, state) == "budget":
        assert state.thinking_tokens == program.max_thinking or (
            program.max_thinking - program.grace <= state.thinking_tokens and BREAKS.after_sentence(state.tail)
        )


@given(programs(), SCRIPTS)
def test_a_grace_window_only_ends_the_thinking_earlier_and_never_below_the_minimum(program, script):
    tokens, state = complete(program, speaker(script))
    uncut, _ = complete(replace(program, grace=0), speaker(script))
    thinking, longer = ([token.id for token in said if token.part == "thinking"] for said in (tokens, uncut))
    assert thinking == longer[: len(thinking)]
    if len(thinking) < len(longer):
        assert program.max_thinking - program.grace <= len(thinking) >= program.min_thinking
        assert BREAKS.after_sentence(state.tail)


@given(programs(), SCRIPTS)
def test_the_minimum_is_met_or_the_response_says_why_not(program, script):
    _, state = complete(program, speaker(script))
    why = unmet(program, state)
    assert (why is None) == (state.thinking_tokens >= program.min_thinking)
    if why == "ignore_str":
        longest = max(map(len, program.ignore))
        bound = program.room if program.max_thinking is None else min(program.max_thinking, program.room)
        assert state.thinking_tokens + longest > bound
    elif why:
        assert state.position == program.room


@given(programs(), SCRIPTS)
def test_rounds_are_bounded_and_take_turns(program, script):
    tokens, state = complete(program, speaker(script))
    forced = [token.id for token in tokens if token.forced and token.part == "thinking"]
    expected = [id for index in range(state.rounds) for id in program.ignore[index % len(program.ignore)]]
    assert forced == expected[: len(forced)] and (len(forced) == len(expected) or state.position == program.room)
    assert state.rounds <= program.num_ignore + program.min_thinking


@given(programs(), SCRIPTS)
def test_the_pairs_alone_give_the_state_again(program, script):
    tokens, state = complete(program, speaker(script))
    again = replay(program, [(token.id, token.forced) for token in tokens])
    assert closed(again)[0] == state


@given(programs(), SCRIPTS)
def test_without_thinking_the_answer_is_what_the_model_says(program, script):
    """A delimiter in it is text like any other, and only a stop token or a bound ends it."""
    program = replace(program, enable_thinking=False, max_thinking=None, min_thinking=0, num_ignore=0, grace=0)
    engine = speaker(script)
    tokens, state = complete(program, engine)
    words = [*script, *[0] * program.room][: min(program.room, program.max_answer or program.room)]
    said = words[: words.index(STOP) + 1] if STOP in words else words
    assert [token.id for token in tokens] == said and len(engine.calls) == 1
    assert [token.part for token in tokens if token.id != STOP] == ["answer"] * state.answer_tokens
    assert state.thinking_tokens == state.forced_tokens == 0 and ended_by(program, state) is None
    assert (finish_reason(state) == "stop") == (said[-1] == STOP)


def oracle(seed, chunk):
    """A model under greedy decoding: the next word depends on the words before it, and on nothing else."""

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        said = []
        while len(said) < max_tokens and not (said and said[-1] in stop_ids):
            said.append(random.Random(f"{seed} {[*prompt, *said]}").choice([0, 1, 5, 6, 6, 7, 7, 9]))
        for start in range(0, len(said), chunk):
            yield said[start : start + chunk]

    return engine


@given(programs(), st.integers(), st.integers(2, 7))
def test_how_the_engine_cuts_its_output_does_not_matter(program, seed, chunk):
    assert complete(program, oracle(seed, 1)) == complete(program, oracle(seed, chunk))


@given(programs(), SCRIPTS, st.lists(st.sampled_from([0, 1, 2, NEWLINE]), max_size=40))
def test_within_its_horizon_the_machine_wants_nothing_else(program, script, ordinary):
    """What an engine relies on when it does not ask at every token."""
    tokens, _ = complete(program, speaker(script))
    pairs = [(token.id, token.forced) for token in tokens]
    for length in range(0, len(pairs) + 1, 3):
        state = replay(program, pairs[:length])
        todo, steps = action(program, state), horizon(program, state)
        assert (steps > 0) == isinstance(todo, Sample)
        if state.phase != "thinking" or state.held:
            continue
        within, last = ordinary[:steps], state
        for id in within:
            now = action(program, last)
            assert isinstance(now, Sample) and now.swap == todo.swap
            last, _ = advance(program, last, id, False)
        assert thought(state, within) == last


@given(programs(), SCRIPTS)
def test_every_call_continues_the_completion_so_far(program, script):
    engine = speaker(script)
    tokens, _ = complete(program, engine, prompt=(1, 2))
    ids = [1, 2, *(token.id for token in tokens)]
    for number, (prompt, segment) in enumerate(engine.calls):
        assert prompt == ids[: len(prompt)] and segment == number


@given(
    st.lists(st.sampled_from([0, 1, 5, 6, 6, 7, OPEN, OPEN, STOP]), max_size=60),
    DELIMITERS,
    st.sampled_from([(OPEN,), (OPEN, OPEN), (OPEN, 0)]),
    st.integers(1, 80),
)
def test_without_a_policy_the_completion_is_what_the_model_says(script, delimiter, opening, room):
    program = Program(
        delimiter=delimiter,
        answer_open=opening,
        stop_ids=frozenset({STOP}),
        ignore=((WAIT,),),
        newline=(NEWLINE,),
        before_end=(),
        answer_prefix=(PREFIX,),
        max_thinking=None,
        min_thinking=0,
        num_ignore=0,
        max_answer=None,
        room=room,
        cut_by="budget",
        room_by="context",
        breaks=BREAKS,
    )
    engine = speaker(script)
    tokens, state = complete(program, engine)
    words = [*script, *[0] * room][:room]
    said = words[: words.index(STOP) + 1] if STOP in words else words
    assert [token.id for token in tokens] == said and len(engine.calls) == 1
    assert state.forced_tokens == state.rounds == 0 and state.ended_by in (None, "natural")
    assert (finish_reason(state) == "stop") == (said[-1] == STOP)
    text, width = said[:-1] if said[-1] == STOP else said, len(delimiter)
    end = next((at for at in range(len(text)) if tuple(text[at : at + width]) == delimiter), None)
    answer = [] if end is None else text[end + width :]
    if tuple(answer[: len(opening)]) == opening:
        answer = answer[len(opening) :]
    assert [token.id for token in tokens if token.part == "answer"] == answer
    assert [token.id for token in tokens if token.part == "thinking"] == text[:end]
