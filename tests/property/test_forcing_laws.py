"""Laws of the budget machine and of its segments driver, against a model that says whatever Hypothesis thinks of."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from s1.forcing import in_engine, segments
from s1.forcing.machine import Force, closed, ended_by, finish_reason, replay, unmet
from s1.forcing.policy import Program

# A vocabulary of ten: 0..4 words, 5 ends a line, 6 and 7 make up delimiters, 8 opens the answer, 9 stops.
STOP, OPEN, NEWLINE, WAIT, PREFIX = 9, 8, 5, 3, 4
DELIMITERS = st.sampled_from([(6,), (6, 7), (6, 6, 7), (6, 7, 6)])
SCRIPTS = st.lists(st.sampled_from([0, 1, 2, 5, 6, 6, 7, 9]), max_size=60)


@st.composite
def programs(draw):
    cap = draw(st.none() | st.integers(0, 30))
    minimum = draw(st.integers(0, 20 if cap is None else cap))
    return Program(
        delimiter=draw(DELIMITERS),
        answer_open=(OPEN,),
        stop_ids=frozenset({STOP}),
        ignore=draw(st.sampled_from([((WAIT,),), ((WAIT, WAIT, 2),), ((WAIT,), (2, WAIT))])),
        newline=(NEWLINE,),
        before_end=draw(st.sampled_from([(), (1,)])),
        answer_prefix=draw(st.sampled_from([(), (PREFIX, PREFIX)])),
        max_thinking=cap,
        min_thinking=minimum,
        num_ignore=draw(st.integers(0, 4)),
        max_answer=draw(st.none() | st.integers(1, 8)),
        room=draw(st.integers(1, 80)),
        cut_by="budget",
        room_by="context",
        ends_line=lambda token: token == NEWLINE,
    )


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
    assert len(tokens) == state.position <= program.room
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
        assert state.thinking_tokens == program.max_thinking


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


def greedy_engine(seed):
    """An engine that carries out the machine itself, with the model of `oracle`."""
    model = oracle(seed, 1)

    async def engine(prompt, program):
        output = []
        received = in_engine.from_wire(in_engine.to_wire(program), program.ends_line)
        row = in_engine.Row(received, output, 0.0, None)
        for _ in range(program.room):
            todo = row.plan()
            forced = isinstance(todo, Force)
            if forced:
                token = todo.tokens[0]
            else:
                [[token]] = [ids async for ids in model([*prompt, *output], max_tokens=1, stop_ids=(), segment=0)]
                if token in row.enders:
                    token, forced = row.replacement(), True
            if forced:
                row.force(token)
            output.append(token)
            yield [(token, forced)]
            if token in program.stop_ids:
                return

    return engine


@given(programs().filter(lambda program: len(program.delimiter) == 1), st.integers())
def test_both_drivers_give_the_same_tokens(program, seed):
    async def collect():
        steps = [step async for step in in_engine.run(program, (0,), greedy_engine(seed))]
        return [token for step in steps for token in step.tokens], steps[-1].state

    tokens, state = asyncio.run(collect())
    expected, final = complete(program, oracle(seed, 1))
    assert tokens == expected
    assert state == final


@given(programs(), SCRIPTS)
def test_every_call_continues_the_completion_so_far(program, script):
    engine = speaker(script)
    tokens, _ = complete(program, engine, prompt=(1, 2))
    ids = [1, 2, *(token.id for token in tokens)]
    for number, (prompt, segment) in enumerate(engine.calls):
        assert prompt == ids[: len(prompt)] and segment == number


@given(SCRIPTS, DELIMITERS, st.integers(1, 80))
def test_without_a_policy_only_the_opening_of_the_answer_is_forced(script, delimiter, room):
    program = Program(
        delimiter=delimiter,
        answer_open=(OPEN,),
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
        ends_line=lambda token: token == NEWLINE,
    )
    tokens, state = complete(program, speaker(script))
    forced = [token for token in tokens if token.forced]
    assert all(token.part == "control" for token in forced) and len(forced) <= len(delimiter) + 1
    assert state.rounds == 0 and state.ended_by in (None, "natural")
