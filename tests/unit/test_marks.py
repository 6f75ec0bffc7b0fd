import asyncio
import multiprocessing

from s1.forcing.marks import Marks, Place


def write(values, position):
    Place.from_wire(values).mark(position)


def test_a_mark_of_another_process_is_seen_at_its_position_only():
    async def marked():
        marks = Marks(num_requests=2, num_positions=10)
        async with marks.place(), marks.place() as place:
            writer = multiprocessing.get_context("spawn").Process(target=write, args=(place.to_wire(), 3))
            writer.start()
            await asyncio.to_thread(writer.join)
            return [marks.marked(place, position) for position in range(10)]

    assert asyncio.run(marked()) == [position == 3 for position in range(10)]


def test_what_earlier_requests_left_or_still_write_in_a_place_marks_nothing():
    async def run():
        marks = Marks(num_requests=1, num_positions=4)
        async with marks.place() as earlier:
            earlier.mark(0)
        async with marks.place() as place:
            assert place.offset == earlier.offset
            earlier.mark(1)
            place.mark(2)
            place.mark(3)
            place.clear(3, 4)
            earlier.clear(0, 4)
            expected = [False, False, True, False]
            assert [marks.marked(place, position) for position in range(4)] == expected
            assert place.before(4) == [2] and place.before(2) == []

    asyncio.run(run())


def test_a_request_waits_until_a_place_is_free():
    async def run():
        marks = Marks(num_requests=1, num_positions=4)

        async def second():
            async with marks.place():
                return "has it"

        async with marks.place():
            waiting = asyncio.create_task(second())
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting == "has it"

    asyncio.run(run())
