"""Laws of the machine inside an engine: logits of a batch, however an engine deals its rows, say what segments say."""

import asyncio
import math
import random
from types import SimpleNamespace

import numpy as np
import torch
from forcing_cases import BREAKS, STOP, TEXTS, WAIT, programs
from hypothesis import given
from hypothesis import strategies as st

from s1.forcing import in_engine, segments
from s1.forcing.batch import FORCED_LOGIT, Batch, Drawing, Row
from s1.forcing.machine import Done, Force, Sample, action, advance, replay, start
from s1.forcing.marks import Marks, Place
from s1.forcing.policy import Program
from s1.forcing.requests import Requests, extra_args, puts_out
from s1.forcing.slots import Slots

SINGLE = st.just((6,))
NUM_TOKENS, PADDED = 10, 12  # ids 10 and 11 are padding of the model's head
GREEDY = Drawing(temperature=0, top_k=0, top_p=1, seed=0)


def thinking(max_thinking, room):
    """A program that ignores one end, and puts two tokens in its place."""
    return Program(
        delimiter=(6,),
        answer_open=(8,),
        stop_ids=frozenset({STOP}),
        ignore=((WAIT, WAIT),),
        newline=(5,),
        before_end=(),
        answer_prefix=(),
        max_thinking=max_thinking,
        min_thinking=0,
        num_ignore=1,
        max_answer=None,
        room=room,
        cut_by="budget",
        room_by="context",
        breaks=BREAKS,
    )


def logits_after(seed, ids):
    """A model: its logits depend on the ids before, and on nothing else. The padding is what it likes best."""
    rng = random.Random(f"{seed} {list(ids)}")
    return [rng.uniform(-2, 2) + 2 * (id in (6, STOP)) for id in range(NUM_TOKENS)] + [9.0] * (PADDED - NUM_TOKENS)


async def oracle_segments(program, seed):
    """The segments driver on the same model under greedy decoding."""

    async def engine(prompt, *, max_tokens, stop_ids, segment):
        said = []
        while len(said) < max_tokens and not (said and said[-1] in stop_ids):
            logits = logits_after(seed, [*prompt, *said])[:NUM_TOKENS]
            said.append(logits.index(max(logits)))
            yield said[-1:]

    steps = [step async for step in segments.run(program, (0,), engine)]
    return [token for step in steps for token in step.tokens], steps[-1].state


class Marked:
    """Marks of one request, in this process."""

    def __init__(self):
        self.positions = set()

    def mark(self, position):
        self.positions.add(position)

    def before(self, stop):
        return sorted(position for position in self.positions if position < stop)

    def clear(self, start, stop):
        self.positions -= set(range(start, stop))


class Engine:
    """What an engine does around a batch: rows that come and go and change places, tokens that are thrown away."""

    def __init__(self, rng):
        self.rng, self.batch, self.requests = rng, Batch(NUM_TOKENS), []

    def add(self, program, seed):
        request = {"program": program, "seed": seed, "output": [], "marks": Marked(), "pairs": []}
        self.requests.append(request)
        self.enter(len(self.requests) - 1)

    def enter(self, index):
        request = self.requests[index]
        received = in_engine.from_wire(in_engine.to_wire(request["program"]), BREAKS)
        self.batch.put(index, Row(received, request["output"], GREEDY, request["marks"]))

    def step(self):
        logits = torch.tensor([logits_after(one["seed"], [0, *one["output"]]) for one in self.requests])
        chosen = self.batch.apply(logits).argmax(-1).tolist()
        for one, token in zip(list(self.requests), chosen, strict=True):
            if self.rng.random() < 0.1:
                continue  # the prompt was not computed to its end: the engine throws the token away
            position = len(one["output"])
            one["output"].append(token)
            one["pairs"].append((token, position in one["marks"].positions))
            if token in one["program"].stop_ids or position + 1 == one["program"].longest:
                self.remove(one)
        self.disturb()

    def remove(self, request):
        """The last row takes the place of one that is over."""
        index, last = self.requests.index(request), len(self.requests) - 1
        self.batch.put(index, None)
        if index != last:
            self.batch.move(last, index, swap=False)
            self.requests[index] = self.requests[last]
        self.requests.pop()

    def disturb(self):
        if len(self.requests) > 1 and self.rng.random() < 0.3:
            one, other = self.rng.sample(range(len(self.requests)), 2)
            self.batch.move(one, other, swap=True)
            self.requests[one], self.requests[other] = self.requests[other], self.requests[one]
        if self.requests and self.rng.random() < 0.2:  # preempted, and back with a new list of the same tokens
            index = self.rng.randrange(len(self.requests))
            self.batch.put(index, None)
            self.requests[index]["output"] = list(self.requests[index]["output"])
            self.enter(index)


async def driven(request):
    async def stream(prompt, program):
        for pair in request["pairs"]:
            yield [pair]

    steps = [step async for step in in_engine.run(request["program"], (0,), stream)]
    return [token for step in steps for token in step.tokens], steps[-1].state


@given(st.lists(programs(SINGLE), min_size=1, max_size=4), st.integers(0, 2**32))
def test_both_drivers_give_the_same_tokens_whatever_happens_to_the_batch(several, seed):
    engine = Engine(random.Random(seed))
    for number, program in enumerate(several):
        engine.add(program, seed + number)
    everything = list(engine.requests)
    while engine.requests:
        engine.step()
    for number, (program, request) in enumerate(zip(several, everything, strict=True)):
        assert asyncio.run(driven(request)) == asyncio.run(oracle_segments(program, seed + number))


def completion(program, rng):
    """Pairs (token, forced) of a completion, and the positions of what was put in place of an end."""
    state, pairs, replaced = start(program), [], Marked()
    while not isinstance(todo := action(program, state), Done):
        forced = isinstance(todo, Force)
        if forced:
            token = todo.tokens[0]
        elif state.phase == "thinking" and not program.forces_nothing and rng.random() < 0.1:
            replaced.mark(len(pairs))
            token, forced = (todo.swap or program.delimiter)[0], True
        else:
            may_end = state.phase != "thinking" or todo.swap is None
            token = rng.choice([0, 1, 2, 3, 5, 6] if may_end else [0, 1, 2, 3, 5])
        state, _ = advance(program, state, token, forced)
        pairs.append((token, forced))
    return pairs, replaced


@given(programs(SINGLE), st.integers(0, 2**32), st.floats(0, 1))
def test_a_request_that_comes_back_stands_where_its_tokens_one_by_one_lead(program, seed, part):
    pairs, replaced = completion(program, random.Random(seed))
    pairs = pairs[: int(part * len(pairs))]
    replaced.mark(len(pairs))  # not put out
    row = Row(program, [token for token, _ in pairs], GREEDY, replaced)
    row.look()
    state = replay(program, pairs)
    todo = action(program, state)
    is_thinking = state.phase == "thinking" and isinstance(todo, Sample) and not program.forces_nothing
    assert row.is_over == (not is_thinking and not isinstance(todo, Force))
    if not row.is_over:
        assert (row._state, row.todo) == (state, todo)
    assert replaced.before(program.longest) == replaced.before(len(pairs))


def test_the_marks_of_a_request_that_comes_back_are_read_once_however_long_it_is(monkeypatch):
    program = thinking(max_thinking=None, room=5000)
    looked_up = []

    async def run():
        marks, requests = Marks(1, 5000), Requests(Tokenizer(), writes=True)
        async with marks.place() as place:
            params = SimpleNamespace(temperature=0, top_k=0, top_p=1, extra_args=extra_args(program, place, 0))
            row = requests.row(params, [0, 1] * 2000)
            cells = Place._cells.fget
            monkeypatch.setattr(Place, "_cells", property(lambda place: looked_up.append(1) or cells(place)))
            row.look()
            assert row._state.thinking_tokens == 4000
        marks.close()

    asyncio.run(run())
    assert len(looked_up) == 2, "to read them, and to clear what was not put out"


def test_a_process_that_lags_behind_takes_no_mark_away():
    """Under tensor parallelism several processes follow the same request; the tokens of the first are put out."""
    program = thinking(max_thinking=20, room=60)
    end = torch.tensor([[0.0] * 6 + [5.0] + [0.0] * (PADDED - 7)])
    ranks = [SimpleNamespace(rank=rank, tensor_parallel_size=2) for rank in range(2)]

    async def run():
        marks = Marks(1, 60)
        async with marks.place() as place:
            params = SimpleNamespace(temperature=0, top_k=0, top_p=1, extra_args=extra_args(program, place, 0))
            rows = [Requests(Tokenizer(), writes=puts_out(rank)).row(params, [0]) for rank in ranks]
            first, second = Batch(NUM_TOKENS), Batch(NUM_TOKENS)
            first.put(0, rows[0])
            second.put(0, rows[1])
            said = [first.apply(end.clone()).argmax().item()]
            assert marks.marked(place, 1)
            rows[1].look()
            assert marks.marked(place, 1)
            said.append(second.apply(end.clone()).argmax().item())
            assert said == [WAIT, WAIT]
            for row, batch in zip(rows, (first, second), strict=True):
                row.output.append(WAIT)
                assert batch.apply(end.clone()).argmax().item() == WAIT
        marks.close()

    asyncio.run(run())


@given(programs(SINGLE), st.floats(0.2, 3), st.integers(0, 6), st.floats(0.3, 1), st.integers(0, 2**32))
def test_an_end_comes_with_the_probability_that_sampling_gives_it(program, temperature, top_k, top_p, seed):
    """The bound that spares most rows a closer look never changes what is decided."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(5):
        drawing = Drawing(temperature, top_k, top_p, rng.initial_seed())
        row = Row(program, [], drawing, Marked())
        batch = Batch(NUM_TOKENS)
        batch.put(0, row)
        if not row.is_watched:
            return
        logits = torch.randn((1, NUM_TOKENS), generator=rng) * 3
        enders = list(row.enders)
        expected = drawing.draw(0) < drawing.share(logits[0].clone(), enders)
        after = batch.apply(logits.clone())
        assert (after.max().item() == FORCED_LOGIT) == expected
        if not expected:
            assert after[0, enders].isinf().all() and torch.equal(after[0].isinf().sum(), torch.tensor(len(enders)))


@given(
    st.lists(st.integers(-900, 900), min_size=3, max_size=12, unique=True),
    st.floats(0.2, 3),
    st.integers(-1, 12),
    st.floats(0.05, 1),
)
def test_the_share_of_an_end_is_its_probability_among_what_top_k_and_top_p_leave(hundredths, temperature, top_k, top_p):
    logits = [value / 100 for value in hundredths]
    weights = {id: math.exp(value / temperature) for id, value in enumerate(logits)}
    order = sorted(weights, key=lambda id: -weights[id])[: top_k if top_k > 0 else None]
    total, kept, mass = sum(weights[id] for id in order), [], 0.0
    for id in order:
        if mass < top_p * total:
            kept.append(id)
        mass += weights[id]
    share = Drawing(temperature, top_k, top_p, 0).share(torch.tensor(logits), [0, 2])
    expected = sum(weights[id] for id in kept if id in (0, 2)) / sum(weights[id] for id in kept)
    on_the_edge = any(abs(sum(weights[id] for id in order[:num]) / total - top_p) < 1e-5 for num in range(len(order)))
    assert on_the_edge or abs(share - expected) < 1e-4


@given(st.integers(0, 2**63 - 1))
def test_draws_are_uniform_and_depend_on_the_position_alone(seed):
    drawing = Drawing(1, 0, 1, seed)
    draws = [drawing.draw(position) for position in range(400)]
    assert draws == [drawing.draw(position) for position in range(400)]
    assert all(0 < draw < 1 for draw in draws) and abs(sum(draws) / 400 - 0.5) < 0.1


class Tokenizer:
    def __len__(self):
        return NUM_TOKENS

    def decode(self, ids, **_):
        return "".join(TEXTS[id] for id in ids)


class SlotEngine:
    """An engine as vLLM's V2 runner: requests in slots, rows dealt anew at every step, tokens only on the device."""

    SLOTS, CONTEXT = 6, 120

    def __init__(self, rng):
        self.rng, self.free, self.running = rng, list(range(self.SLOTS)), []
        self.state = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=torch.zeros(self.SLOTS, self.CONTEXT, dtype=torch.int32)),
            prompt_len=SimpleNamespace(np=np.zeros(self.SLOTS, dtype=np.int32)),
            prefill_len=SimpleNamespace(np=np.zeros(self.SLOTS, dtype=np.int32)),
        )
        self.slots = Slots(Tokenizer(), self.state, writes=True)

    def add(self, request):
        slot = request["slot"] = self.free.pop(self.rng.randrange(len(self.free)))
        ids = [0] * request["num_prompt"] + request["output"]
        self.state.all_token_ids.gpu[slot, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
        self.state.prompt_len.np[slot], self.state.prefill_len.np[slot] = request["num_prompt"], len(ids)
        request["computed"] = self.rng.randint(1, len(ids))
        assert self.slots.add(slot, request["params"])
        self.running.append(request)

    def step(self):
        self.rng.shuffle(self.running)
        rows = [one for one in self.running if self.rng.random() < 0.9]
        if not rows:
            return
        step = SimpleNamespace(
            idx_mapping_np=np.array([one["slot"] for one in rows], dtype=np.int32),
            seq_lens_upper_bound_np=np.array([one["computed"] for one in rows], dtype=np.int32),
            input_ids=torch.tensor([self.state.all_token_ids.gpu[one["slot"], one["computed"] - 1] for one in rows]),
        )
        logits = torch.tensor([logits_after(one["seed"], [0, *one["output"]]) for one in rows])
        for one, token in zip(rows, self.slots.apply(logits, step).argmax(-1).tolist(), strict=True):
            self.put_out(one, token)

    def put_out(self, request, token):
        position = len(request["output"])
        length = request["num_prompt"] + position
        if request["computed"] < length:
            request["computed"] = length  # the rest of the prompt
            return
        request["output"].append(token)
        self.state.all_token_ids.gpu[request["slot"], length] = token
        request["computed"] = length + 1
        request["pairs"].append((token, request["marked"](position)))
        over = token in request["program"].stop_ids or position + 1 == request["program"].longest
        if over or self.rng.random() < 0.1:
            self.running.remove(request)
            self.free.append(request["slot"])
            if not over:
                self.add(request)  # preempted, and back in another slot


@given(st.lists(programs(SINGLE), min_size=1, max_size=4), st.integers(0, 2**32))
def test_both_drivers_give_the_same_tokens_where_requests_have_slots(several, seed):
    async def everything():
        marks, engine = Marks(len(several), SlotEngine.CONTEXT), SlotEngine(random.Random(seed))
        requests = []
        for number, program in enumerate(several):
            place = await marks.place().__aenter__()
            params = SimpleNamespace(temperature=0, top_k=0, top_p=1, extra_args=extra_args(program, place, seed))
            request = {"program": program, "seed": seed + number, "output": [], "pairs": [], "num_prompt": 1 + number}
            request |= {"params": params, "marked": lambda position, place=place: marks.marked(place, position)}
            requests.append(request)
            engine.add(request)
        while engine.running:
            engine.step()
        for number, (program, request) in enumerate(zip(several, requests, strict=True)):
            assert await driven(request) == await oracle_segments(program, seed + number)
        marks.close()

    asyncio.run(everything())


def test_a_preempted_request_knows_which_of_its_tokens_were_forced_however_many_others_came_and_went():
    program = thinking(max_thinking=20, room=60)
    end = torch.tensor([[0.0] * 6 + [5.0] + [0.0] * (PADDED - 7)])

    async def run():
        marks, requests = Marks(2, 60), Requests(Tokenizer(), writes=True)
        async with marks.place() as place, marks.place() as elsewhere:
            params = SimpleNamespace(temperature=0, top_k=0, top_p=1, extra_args=extra_args(program, place, 0))
            batch, output = Batch(NUM_TOKENS), [0]
            batch.put(0, requests.row(params, output))
            output.append(batch.apply(end.clone()).argmax().item())
            assert output == [0, WAIT] and place.before(2) == [1]
            for _ in range(1000):
                other = SimpleNamespace(temperature=0, top_k=0, top_p=1, extra_args=extra_args(program, elsewhere, 0))
                batch.put(0, requests.row(other, []))
            output = list(output)
            batch.put(0, requests.row(params, output))
            said = []
            for _ in range(3):
                said.append(batch.apply(end.clone()).argmax().item())
                output.append(said[-1])
            assert said == [WAIT, 6, 8], "the rest of what was forced, then the end, which is not ignored twice"
        marks.close()

    asyncio.run(run())
