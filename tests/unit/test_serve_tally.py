"""The metrics of several replicas of the HTTP side as one account."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serve import tally
from serve.events import Report
from serve.metrics import Metrics
from serve.tally import FOLDED_AFTER_S, GONE_AFTER_S, Tally, added, go_on_telling

M = (("model", "m"),)
COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=4)


def replica(thinking=0, running=0):
    """Metrics of a replica that saw completions of so many tokens, and has so many requests under way."""
    metrics = Metrics(["m"])
    for tokens in range(thinking):
        metrics.completed("m", Report(tokens, 0, 0, tokens, 0, None, "natural", None, "stop"))
    metrics.running.labels("m").inc(running)
    return metrics


def values(text):
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def without_times(text):
    return {key: value for key, value in values(text).items() if not key[0].endswith("_created")}


def test_one_replica_tells_what_it_tells_by_itself():
    metrics = replica(thinking=4, running=1)
    assert values(tally.text(added({"a": metrics.collect()}, {"a": True}))) == without_times(metrics.text())


@given(COUNTS, st.integers(0, 9))
def test_every_series_is_the_sum_over_the_replicas(counts, running):
    replicas = {str(number): replica(count, running) for number, count in enumerate(counts)}
    there = dict.fromkeys(replicas, True)
    whole = values(tally.text(added({name: one.collect() for name, one in replicas.items()}, there)))
    parts = [without_times(one.text()) for one in replicas.values()]
    assert whole == {key: sum(part.get(key, 0) for part in parts) for part in parts for key in part}


def test_what_a_lost_replica_counted_stays_and_what_was_under_way_in_it_goes():
    told = {"lost": replica(thinking=3, running=2).collect(), "new": replica(thinking=1, running=1).collect()}
    seen = values(tally.text(added(told, {"lost": False, "new": True})))
    assert seen["s1_requests_running", (("model", "m"),)] == 1
    assert seen["s1_thinking_length_tokens_count", (("model", "m"),)] == 4


def test_telling_again_counts_nothing_twice():
    async def tell():
        account, metrics = Tally(), replica(thinking=2)
        await account.tell("a", metrics.collect())
        await account.tell("b", replica(thinking=1).collect())
        await account.tell("a", metrics.collect())
        return await account.text()

    assert values(asyncio.run(tell()))["s1_thinking_length_tokens_count", (("model", "m"),)] == 3


def test_what_replicas_counted_stays_when_they_are_given_up_and_is_never_counted_twice():
    now = 0.0

    async def run():
        nonlocal now
        account, counts = Tally(lambda: now), []
        for number in range(5):
            await account.tell(str(number), replica(thinking=2, running=1).collect())
            seen = values(await account.text())
            counts.append((seen["s1_thinking_length_tokens_count", M], seen["s1_requests_running", M]))
            now += GONE_AFTER_S if number < 2 else FOLDED_AFTER_S
        await account.tell("4", replica(thinking=3, running=1).collect())  # late, but nobody asked in between
        seen = values(await account.text())
        counts.append((seen["s1_thinking_length_tokens_count", M], seen["s1_requests_running", M]))
        await account.tell("0", replica(thinking=3, running=1).collect())  # given up
        assert values(await account.text()) == seen
        return counts

    assert asyncio.run(run()) == [(2, 1), (4, 1), (6, 1), (8, 1), (10, 1), (11, 1)]


def test_a_failure_that_nobody_expected_is_logged_and_does_not_end_the_telling(serve_log):
    async def run():
        told = asyncio.Event()
        failures = [ValueError("odd"), TypeError("odder")]

        async def tell():
            if failures:
                raise failures.pop()
            told.set()

        telling = asyncio.create_task(go_on_telling(tell, interval_s=0))
        done, _ = await asyncio.wait([telling, asyncio.create_task(told.wait())], return_when="FIRST_COMPLETED")
        ended = telling in done
        telling.cancel()
        return ended

    assert not asyncio.run(run())
    assert [str(record.exc_info[1]) for record in serve_log.records] == ["odder", "odd"]
