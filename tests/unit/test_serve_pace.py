import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.events import Accepted, Added, Finished, Report, Segment
from serve.pace import COMMENT, interval_s, joined, kept_alive, paced

REPORT = Report(1, 0, 0, 1, 0, None, "natural", None, "stop")
PIECES = st.builds(
    lambda choice, text, forced: Added(choice, text, "", (Segment(text, forced, "thinking"),), 1, 0, 0),
    st.integers(0, 2),
    st.text(max_size=3),
    st.booleans(),
)


def text(word):
    return Added(0, word, "", (Segment(word, False, "thinking"),), 1, 0, 0)


def collected(events, interval_s):
    async def collect():
        async with aclosing(paced(events, lambda: interval_s)) as stream:
            return [event async for event in stream]

    return asyncio.run(collect())


@given(st.lists(PIECES | st.just(Accepted(3)) | st.builds(Finished, st.integers(0, 2), st.just(REPORT))))
def test_joining_loses_nothing_and_changes_no_order(events):
    result = joined(events)
    for choice in range(3):
        before = [event for event in events if isinstance(event, Added) and event.choice == choice]
        after = [event for event in result if isinstance(event, Added) and event.choice == choice]
        assert "".join(event.reasoning for event in before) == "".join(event.reasoning for event in after)
        marks = [[(s.forced, c) for e in side for s in e.segments for c in s.text] for side in (before, after)]
        assert marks[0] == marks[1]
    assert [e for e in events if not isinstance(e, Added)] == [e for e in result if not isinstance(e, Added)]
    assert joined(result) == result


def test_the_first_text_and_the_end_go_out_at_once_and_the_rest_together():
    async def source():
        yield Accepted(3)
        yield text("a")
        await asyncio.sleep(0.01)
        for word in "bcdef":
            yield text(word)
            await asyncio.sleep(0)
        yield Finished(0, REPORT)

    # Were the end not told at once, this would take a minute.
    accepted, first, rest, finished = collected(source(), interval_s=60)
    assert (accepted, first.reasoning, rest.reasoning) == (Accepted(3), "a", "bcdef")
    assert finished == Finished(0, REPORT)


def test_the_end_of_one_choice_goes_out_at_once_while_another_goes_on():
    released = asyncio.Event()

    async def source():
        yield text("a")
        await asyncio.sleep(0.01)
        yield text("b")
        yield Finished(0, REPORT)
        await released.wait()  # which comes when the end was told

    async def collect():
        seen = []
        async with asyncio.timeout(30), aclosing(paced(source(), lambda: 60)) as stream:
            async for event in stream:
                seen.append(event)
                if isinstance(event, Finished):
                    released.set()
        return seen

    first, rest, finished = asyncio.run(collect())
    assert (first.reasoning, rest.reasoning, finished) == ("a", "b", Finished(0, REPORT))


def test_without_an_interval_every_text_goes_out_by_itself():
    async def source():
        for word in "abc":
            yield text(word)
            await asyncio.sleep(0.01)

    assert [event.reasoning for event in collected(source(), interval_s=0)] == ["a", "b", "c"]


def test_a_failure_comes_after_what_came_before_it():
    async def source():
        yield text("a")
        yield text("b")
        raise ConnectionError("lost")

    seen = []

    async def collect():
        async for event in paced(source(), lambda: 60):
            seen.append(event.reasoning)

    with pytest.raises(ConnectionError):
        asyncio.run(collect())
    assert "".join(seen) == "ab"


def test_closing_it_closes_what_it_reads():
    closed = asyncio.Event()

    async def source():
        try:
            yield text("a")
            await asyncio.sleep(3600)
        finally:
            closed.set()

    async def close_early():
        stream = paced(source(), lambda: 0)
        assert (await anext(stream)).reasoning == "a"
        await stream.aclose()
        return closed.is_set()

    assert asyncio.run(close_early())


def read(texts, silence_s):
    async def collect():
        async with aclosing(kept_alive(texts, silence_s)) as stream:
            return [piece async for piece in stream]

    return asyncio.run(collect())


def test_a_silent_stream_has_comments_and_loses_nothing():
    async def slow():
        yield "a"
        await asyncio.sleep(0.1)
        yield "b"

    pieces = read(slow(), 0.01)
    assert COMMENT in pieces and COMMENT.startswith(":") and COMMENT.endswith("\n\n")
    assert [piece for piece in pieces if piece != COMMENT] == ["a", "b"]
    assert read(slow(), 60) == ["a", "b"]


def test_the_failure_of_a_stream_is_passed_on():
    async def fails():
        yield "a"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        read(fails(), 0.01)


@pytest.mark.parametrize("silent", [True, False])
def test_who_leaves_ends_the_stream_whether_it_is_silent_or_not(silent):
    ended = []

    async def endless():
        try:
            yield "a"
            await asyncio.sleep(3600 if silent else 0)
            yield "b"
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    async def leave():
        stream = kept_alive(endless(), 0.01)
        assert await anext(stream) == "a"
        assert await anext(stream) == (COMMENT if silent else "b")
        await stream.aclose()
        return list(ended)

    assert asyncio.run(leave()) == [True]


def test_who_is_cancelled_while_it_waits_ends_the_stream():
    ended = []

    async def silent():
        try:
            await asyncio.sleep(3600)
            yield "a"
        finally:
            ended.append(True)

    async def cancel():
        reading = asyncio.ensure_future(anext(kept_alive(silent(), 3600)))
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(cancel())
    assert ended == [True]


def test_streams_beside_gpus_are_sent_more_often():
    for device, of_64 in (("cpu", 0.25), ("gpu", 0.032)):
        assert interval_s(device, 1) < 0.005, "one stream shows every token"
        assert interval_s(device, 64) == of_64
    assert interval_s("gpu", 1000) == 0.05
