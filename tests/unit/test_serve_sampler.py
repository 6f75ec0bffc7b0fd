"""The parallel sampler on engines that have a certain number of places."""

import asyncio
from contextlib import aclosing

import pytest
from ray.serve.exceptions import BackPressureError

from serve.engine import EngineLost
from serve.events import Accepted, Choice, Completed, Rejected, Report
from serve.sampler import sampled


class Stream:
    """Events of one generation, as the handle of a deployment gives them."""

    def __init__(self, events):
        self.events, self.is_cancelled = events, False

    async def __aiter__(self):
        async for event in self.events:
            yield event

    def cancel(self):
        self.is_cancelled = True


class Engines:
    """Take as many generations as they have places. Some generations fail, or end when `release` is set."""

    def __init__(self, places, failing=(), held=False):
        self.places, self.failing, self.held = places, failing, held
        self.busy = self.most = 0
        self.started, self.release = [], asyncio.Event()

    def start(self, index):
        self.started.append((index, Stream(self._events(index))))
        return self.started[-1][1]

    async def _events(self, index):
        if self.busy == self.places:
            raise BackPressureError(num_queued_requests=1, max_queued_requests=1)
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            yield Accepted(7)
            await asyncio.sleep(0)
            if index in self.failing:
                raise ValueError(f"generation {index} failed")
            if self.held:
                await self.release.wait()
            yield Completed(7, (choice(index),))
        finally:
            self.busy -= 1


def choice(index):
    """The later, the shorter."""
    report = Report(100 - index, 0, 1, 101 - index, 0, None, "natural", None, "stop")
    return Choice("", f"Answer: {index % 3}", (), report)


async def everything(engines, n, method="majority"):
    return [event async for event in sampled(engines.start, n, method)]


@pytest.mark.parametrize(("n", "places"), [(2, 1), (5, 2), (8, 8), (64, 3)])
def test_more_generations_than_places_all_come_to_their_end(n, places):
    async def run():
        engines = Engines(places)
        return engines, await everything(engines, n)

    engines, (accepted, *progress, completed) = asyncio.run(run())
    assert accepted == Accepted(7) and engines.most <= places and engines.busy == 0
    assert [event.done for event in progress] == list(range(1, n + 1))
    assert {event.report.thinking_tokens for event in progress} == {100 - index for index in range(n)}
    assert sum(vote.count for vote in progress[-1].votes) == n
    assert completed.choices == (choice(0),)


def test_the_best_generation_answers():
    async def run():
        return await everything(Engines(4), 4, "best_of")

    *_, completed = asyncio.run(run())
    assert completed.choices == (choice(3),)


def test_without_a_place_for_the_first_the_request_is_refused_before_anything_is_accepted():
    async def run():
        engines = Engines(0)
        with pytest.raises(BackPressureError):
            await everything(engines, 8)
        return engines

    assert len(asyncio.run(run()).started) == 1


def test_a_request_that_does_not_fit_is_rejected_once():
    async def reject():
        yield Rejected("too long")

    async def run():
        return [event async for event in sampled(lambda index: Stream(reject()), 8, "majority")]

    assert asyncio.run(run()) == [Rejected("too long")]


def test_the_failure_of_one_generation_ends_the_others_and_the_request():
    async def run():
        engines = Engines(8, failing={2}, held=True)
        with pytest.raises(ValueError, match="generation 2 failed"):
            await everything(engines, 8)
        return engines

    engines = asyncio.run(run())
    assert engines.busy == 0 and all(stream.is_cancelled for _, stream in engines.started)


def test_an_engine_that_ends_without_completing_is_an_error_and_not_a_hang():
    async def accept():
        yield Accepted(7)

    async def run():
        return [event async for event in sampled(lambda index: Stream(accept()), 2, "majority")]

    with pytest.raises(RuntimeError, match="without completing"):
        asyncio.run(run())


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_generation_that_an_engine_cancels_is_an_error_and_not_a_hang(cancelled):
    async def cancel(index):
        if index == cancelled:
            raise asyncio.CancelledError
        yield Accepted(7)
        await asyncio.Event().wait()

    async def run():
        with pytest.raises(EngineLost, match="cancelled a generation"):
            async for _ in sampled(lambda index: Stream(cancel(index)), 2, "majority"):
                pass
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert not asyncio.run(run())


def test_who_goes_away_ends_every_generation_and_those_that_wait_for_a_place():
    async def run():
        engines = Engines(2, held=True)
        async with aclosing(sampled(engines.start, 5, "majority")) as events:
            assert await anext(events) == Accepted(7)
            waiting = asyncio.create_task(anext(events))
            while len({index for index, _ in engines.started}) < 5:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        return engines, left

    engines, left = asyncio.run(run())
    assert not left and engines.busy == 0 and all(stream.is_cancelled for _, stream in engines.started)
