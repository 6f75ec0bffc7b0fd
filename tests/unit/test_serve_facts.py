import asyncio

from serve.events import EngineFacts
from serve.facts import Facts

SEGMENTS = EngineFacts("segments (asked for)", 4096, "bfloat16")
IN_ENGINE = EngineFacts("in-engine (one pass)", 512, "float32")


def test_a_model_is_known_when_it_has_told_and_what_all_have_in_common_when_all_have():
    async def run():
        busy = asyncio.Event()

        async def full():
            await busy.wait()
            return SEGMENTS

        async def free():
            return IN_ENGINE

        facts = Facts({"tuned": full, "base": free})
        await facts.asking[1]
        before = facts.told(), facts.context_tokens("tuned"), facts.context_tokens("base")
        busy.set()
        await facts.asking[0]
        return before, facts.told()

    before, after = asyncio.run(run())
    assert before == ({}, None, 512)
    assert after == {
        "driver": "tuned: segments (asked for); base: in-engine (one pass)",
        "precision": "bfloat16, float32",
    }


def test_an_engine_that_fails_is_logged_and_asked_again_until_it_tells_and_then_no_more(serve_log):
    asked = []

    async def question():
        asked.append(len(asked))
        if len(asked) < 3:
            raise ConnectionError("lost")
        return SEGMENTS

    async def run():
        facts = Facts({"base": question}, pause_s=0)
        assert facts.told() == {}
        await asyncio.gather(*facts.asking)
        return [facts.told() for _ in range(3)]

    assert asyncio.run(run()) == [{"driver": "base: segments (asked for)", "precision": "bfloat16"}] * 3
    assert asked == [0, 1, 2]
    assert [record.exc_info[1].args for record in serve_log.records] == [("lost",), ("lost",)]
