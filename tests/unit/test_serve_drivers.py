import asyncio

from serve.drivers import Drivers


def test_the_drivers_are_left_out_until_every_engine_has_told_its_own():
    async def run():
        busy = asyncio.Event()

        async def full():
            await busy.wait()
            return "segments (asked for)"

        async def free():
            return "in-engine (one pass)"

        drivers = Drivers({"tuned": full, "base": free})
        await drivers.asking[1]
        before = drivers.told()
        busy.set()
        await drivers.asking[0]
        return before, drivers.told()

    assert asyncio.run(run()) == (None, "tuned: segments (asked for); base: in-engine (one pass)")


def test_an_engine_that_fails_is_logged_and_asked_again_until_it_tells_and_then_no_more(serve_log):
    asked = []

    async def question():
        asked.append(len(asked))
        if len(asked) < 3:
            raise ConnectionError("lost")
        return "segments (asked for)"

    async def run():
        drivers = Drivers({"base": question}, pause_s=0)
        assert drivers.told() is None
        await asyncio.gather(*drivers.asking)
        return [drivers.told() for _ in range(3)]

    assert asyncio.run(run()) == ["base: segments (asked for)"] * 3
    assert asked == [0, 1, 2]
    assert [record.exc_info[1].args for record in serve_log.records] == [("lost",), ("lost",)]
