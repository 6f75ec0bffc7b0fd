"""Laws of the limits, over a simulated service and a clock of our own."""

import heapq
import math
import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from s1.teachers.limiter import LEASE_S, UNREACHED_S, Grant, Limiter, Result, Stop, Wait
from s1.teachers.limits import Breaker, Budget, Concurrency, Limits, Pace
from s1.teachers.openai import OpenAI
from s1.teachers.retry import Retry, retry_after_s, retry_info_s

RATES = st.floats(1, 6000)


@given(per_minute=RATES, gaps=st.lists(st.floats(0, 30), min_size=1, max_size=200), window=st.floats(0.1, 120))
def test_no_stretch_of_time_sees_more_than_the_pace_and_one_burst(per_minute, gaps, window):
    pace, now, taken = Pace(per_minute, 1.0, 0.0), 0.0, []
    for gap in gaps:
        now += gap
        if pace.wait_s(now) == 0:
            pace.take(now, 1)
            taken.append(now)
    for start in taken:
        within = sum(start <= at < start + window for at in taken)
        assert within <= (window + 1.0) * per_minute / 60 + 1


@given(per_minute=RATES, jitter=st.floats(0, 0.5), seed=st.integers(0, 100))
def test_who_always_waits_gets_the_whole_rate_even_when_late(per_minute, jitter, seed):
    pace, now, count, draw = Pace(per_minute, 1.0, 0.0), 0.0, 0, random.Random(seed)
    while now < 60:
        wait = pace.wait_s(now)
        if wait == 0:
            pace.take(now, 1)
            count += 1
        else:
            now += wait + 1e-9 + jitter * draw.random()
    assert count >= 0.99 * Pace.MARGIN * per_minute - 2


@given(per_minute=RATES, guessed=st.floats(0, 1000), real=st.floats(0, 1000))
def test_a_wrong_guess_of_the_tokens_is_made_up_for(per_minute, guessed, real):
    one, two = Pace(per_minute, 1.0, 0.0), Pace(per_minute, 1.0, 0.0)
    one.take(5.0, guessed)
    one.correct(real - guessed)
    two.take(5.0, real)
    assert math.isclose(one.wait_s(5.0), two.wait_s(5.0), abs_tol=1e-6)


@given(most=st.integers(1, 500), results=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_concurrency_stays_within_its_bounds_and_falls_only_on_failures(most, results):
    rule = Concurrency(most)
    for failed, is_full in results:
        before = rule.limit
        was_cut = rule.finished(rule.era, failed=failed, is_full=is_full)
        assert 1 <= rule.limit <= most
        assert rule.limit >= before or (was_cut and failed)
        assert not (failed and rule.limit > 2 * before)


@given(most=st.integers(2, 500), era_results=st.integers(1, 300))
def test_a_crowd_that_failed_together_cuts_once(most, era_results):
    rule = Concurrency(most)
    sent_in = rule.era
    limit = rule.limit
    for _ in range(era_results):
        rule.finished(sent_in, failed=True, is_full=True)
    assert rule.limit >= max(1.0, limit * rule.FACTOR)


def test_after_the_first_cut_a_good_round_adds_one():
    rule = Concurrency(100)
    while rule.era == 0:
        rule.finished(0, failed=True, is_full=True)
    limit = rule.limit
    for _ in range(math.ceil(limit)):
        rule.finished(rule.era, failed=False, is_full=True)
    assert rule.limit == limit + 1


@given(first=st.floats(0.1, 10), longest=st.floats(10, 100), failures=st.integers(1, 12))
def test_while_the_breaker_is_open_one_request_goes_per_pause_and_pauses_double_up_to_a_bound(first, longest, failures):
    rule, now = Breaker(first, longest), 0.0
    for _ in range(rule.WINDOW):
        assert rule.wait_s(now) == 0
        rule.finished(now, failed=True)
    for number in range(failures):
        wait = rule.wait_s(now)
        assert math.isclose(wait, min(first * 2**number, longest), rel_tol=1e-6, abs_tol=1e-6)
        now += wait + 1e-6
        assert rule.wait_s(now) == 0
        rule.sent(now)
        assert rule.wait_s(now) > 0
        rule.finished(now, failed=True)
    rule.sent(now)
    rule.finished(now, failed=False)
    assert not rule.is_open
    assert rule.wait_s(now) == 0


@dataclass
class Run:
    """What a simulated run has seen."""

    finished: int = 0
    stopped: str = ""
    spent_usd: float = 0.0
    most_under_way: int = 0
    most_over_usd: float = -math.inf
    sent: list[float] = field(default_factory=list)

    def sends(self, now: float, max_usd: float | None) -> None:
        self.sent.append(now)
        if max_usd is not None:
            self.most_over_usd = max(self.most_over_usd, self.spent_usd - max_usd)


MEAN_USD = 0.5


def outcome(
    draw: random.Random, service: OpenAI, cost: float, *, failing: float, broken: float, counted: float
) -> tuple[float, Result]:
    """What a request of such a cost was paid with, and what the limiter is told of it."""
    if draw.random() < failing:
        return 0.0, Result(True, 0, 0)
    failed = draw.random() < broken
    tokens = int(cost * 1000) if not failed and draw.random() < counted else None
    return cost, Result(failed, tokens, cost if tokens is not None else service.cost_usd(None, None))


def simulate(
    limits: Limits,
    *,
    num: int,
    seed: int,
    failing: float = 0.0,
    max_usd: float | None = None,
    spread: float = 1.0,
    killed_every: int = 0,
    counted: float = 1.0,
    broken: float = 0.0,
) -> Run:
    """`num` questions by eight workers against a service with random latencies, costs and failures.

    `counted`: the share of answers that come with their number of tokens. `broken`: the share of requests that are
    sent and billed, and asked again, since their answer does not come.
    """
    draw = random.Random(seed)
    retry = Retry(attempts=1000, first_pause_s=0.5, longest_pause_s=20)
    service = OpenAI(
        limits=limits, retry=retry, usd_per_million_output=1e6 * MEAN_USD / 500, expected_output_tokens=500
    )
    limiter, run, now = Limiter({"s": service}, Budget(max_usd), 0.0), Run(), 0.0
    under_way: list[tuple[float, int, float]] = []  # end, permit, cost
    waiting = num
    while waiting or under_way:
        for worker in range(8):
            limiter.renew(now, f"w{worker}")
        limiter.expire(now)
        dies = killed_every > 0 and len(run.sent) % killed_every == 1
        holder = f"dead{len(run.sent)}" if dies else f"w{draw.randrange(8)}"
        limiter.renew(now, holder)
        verdict = limiter.ask(now, "s", holder) if waiting else Wait(math.inf)
        if isinstance(verdict, Grant):
            waiting -= 1
            cost = MEAN_USD * draw.uniform(1 - spread, 1 + spread)
            run.sends(now, max_usd)
            if dies:  # it is never heard of again; another worker takes the question over
                heapq.heappush(under_way, (now + 3 * LEASE_S, -1, cost))
                continue
            heapq.heappush(under_way, (now + draw.lognormvariate(0.5, 0.6), verdict.permit, cost))
            run.most_under_way = max(run.most_under_way, limiter.num_under_way)
            continue
        if isinstance(verdict, Stop):
            run.stopped, waiting = verdict.reason, 0
            continue
        end = under_way[0][0] if under_way else math.inf
        assert min(end, verdict.seconds) < math.inf, "nothing would ever happen again"
        if verdict.seconds < end - now:
            now += verdict.seconds + 1e-9
            continue
        now, permit, cost = heapq.heappop(under_way)
        paid_usd, result = outcome(draw, service, cost, failing=failing, broken=broken, counted=counted)
        run.spent_usd += paid_usd
        limiter.finished(now, permit, result)
        if permit == -1 or result.failed:
            waiting += not run.stopped
        else:
            run.finished += 1
    return run


@settings(max_examples=40)
@given(
    rate=st.none() | st.floats(60, 3000),
    tokens=st.none() | st.floats(50_000, 500_000),
    most=st.integers(1, 64),
    failing=st.floats(0, 0.6),
    seed=st.integers(0, 1000),
)
def test_everything_is_asked_in_the_end_within_all_limits(rate, tokens, most, failing, seed):
    limits = Limits(requests_per_minute=rate, tokens_per_minute=tokens, max_concurrency=most, give_up_after_s=1e6)
    run = simulate(limits, num=60, seed=seed, failing=failing)
    assert run.finished == 60
    assert run.most_under_way <= most
    if rate is not None:
        for start in run.sent:
            assert sum(start <= at < start + 10 for at in run.sent) <= 11 * rate / 60 + 1


@settings(max_examples=60)
@given(
    max_usd=st.floats(0.1, 60),
    most=st.integers(1, 64),
    failing=st.floats(0, 0.3),
    spread=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_cap_is_passed_by_no_more_than_what_the_last_requests_cost_beyond_expectation(
    max_usd, most, failing, spread, seed
):
    limits = Limits(max_concurrency=most, give_up_after_s=1e6)
    run = simulate(limits, num=100, seed=seed, failing=failing, max_usd=max_usd, spread=spread)
    assert run.finished == 100 or "is reached" in run.stopped
    assert run.most_over_usd <= 1e-9, "a request was sent when the cap had been passed"
    assert run.spent_usd <= max_usd + run.most_under_way * MEAN_USD * spread * 2 + 1e-9


@settings(max_examples=30)
@given(max_usd=st.floats(0.1, 30), most=st.integers(1, 64), counted=st.floats(0, 1), seed=st.integers(0, 1000))
def test_the_cap_holds_when_the_service_does_not_say_what_was_used(max_usd, most, counted, seed):
    limits = Limits(max_concurrency=most, give_up_after_s=1e6)
    run = simulate(limits, num=100, seed=seed, max_usd=max_usd, spread=0.0, counted=counted)
    assert run.finished * MEAN_USD <= max_usd + 1e-9
    assert "is reached" in run.stopped


@settings(max_examples=30)
@given(max_usd=st.floats(0.1, 30), most=st.integers(1, 64), broken=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_the_cap_holds_when_requests_are_billed_whose_answer_does_not_come(max_usd, most, broken, seed):
    limits = Limits(max_concurrency=most, give_up_after_s=1e6)
    run = simulate(limits, num=100, seed=seed, max_usd=max_usd, spread=0.0, broken=broken)
    assert run.spent_usd <= max_usd + 1e-9
    assert "is reached" in run.stopped


@given(per_minute=st.floats(1000, 60_000), num=st.integers(2, 40), failed=st.booleans())
def test_tokens_that_nobody_counts_are_taken_to_be_those_that_were_expected(per_minute, num, failed):
    service = OpenAI(
        limits=Limits(tokens_per_minute=per_minute, give_up_after_s=1e6),
        retry=Retry(first_pause_s=1e-3, longest_pause_s=1e-3),
        expected_input_tokens=0,
        expected_output_tokens=500,
    )

    def seconds(tokens: int | None) -> float:
        limiter, now = Limiter({"s": service}, Budget(None), 0.0), 0.0
        for _ in range(num):
            limiter.renew(now, "w")
            while isinstance(verdict := limiter.ask(now, "s", "w"), Wait):
                now += verdict.seconds + 1e-9
                limiter.renew(now, "w")
            assert isinstance(verdict, Grant)
            limiter.finished(now, verdict.permit, Result(failed, tokens))
        return now

    needed = (num - 1) * 500 * 60 / per_minute
    assert needed - 0.5 <= seconds(None) <= 1.02 * needed + 0.5
    assert seconds(0) <= 0.5


@settings(max_examples=30)
@given(most=st.integers(1, 32), seed=st.integers(0, 1000), every=st.integers(2, 20))
def test_permits_of_dead_workers_come_back(most, seed, every):
    run = simulate(Limits(max_concurrency=most, give_up_after_s=1e6), num=60, seed=seed, killed_every=every)
    assert run.finished == 60


def test_a_service_that_only_fails_stops_the_job():
    run = simulate(Limits(give_up_after_s=100), num=10, seed=0, failing=1.0)
    assert run.finished == 0
    assert "has done nothing but fail for" in run.stopped


@given(
    reached_at=st.none() | st.integers(0, 40),
    latency=st.floats(0, 5),
    give_up_after_s=st.floats(1, 3000),
    longest_pause_s=st.floats(1, 600),
)
def test_a_service_that_was_never_reached_is_given_up_soon_and_exactly_then(
    reached_at, latency, give_up_after_s, longest_pause_s
):
    """`reached_at`: the number of the request to which it answers, once, that it is busy."""
    retry = Retry(first_pause_s=1.0, longest_pause_s=longest_pause_s)
    service = OpenAI(retry=retry, limits=Limits(give_up_after_s=give_up_after_s, max_concurrency=1))
    limiter, now, number, waits = Limiter({"s": service}, Budget(None), 0.0), 0.0, 0, set[str]()
    while not isinstance(verdict := limiter.ask(now, "s", "w"), Stop):
        if isinstance(verdict, Wait):
            now += verdict.seconds + 1e-9
            continue
        now += latency
        detail = "ConnectError: no" if number != reached_at else "HTTP 503: busy"
        limiter.finished(now, verdict.permit, Result(failed=True, detail=detail, unreached=number != reached_at))
        waits.add(limiter.waits)
        number += 1
    was_reached = reached_at is not None and number > reached_at
    patience_s = give_up_after_s if was_reached else min(UNREACHED_S, give_up_after_s)
    assert patience_s <= now <= patience_s + 2 * latency + 1
    what = "has done nothing but fail for" if was_reached else "could not be reached for"
    assert verdict.reason.startswith(f"s {what} {now - latency:.0f} s (")
    assert waits <= {"", "s fails (ConnectError: no)", "s fails (HTTP 503: busy)"} and (number < 20 or len(waits) > 1)


def test_when_many_are_told_to_come_back_later_nobody_is_sent_before():
    service = OpenAI(retry=Retry(first_pause_s=0.1, longest_pause_s=1.0), limits=Limits(give_up_after_s=1800.0))
    limiter = Limiter({"s": service}, Budget(None), 0.0)
    limiter.renew(20.0, "w")
    for grant in [limiter.ask(20.0, "s", "w") for _ in range(Breaker.WINDOW)]:
        assert isinstance(grant, Grant)
        limiter.finished(20.0, grant.permit, Result(failed=True, retry_after_s=300.0))
    assert limiter.ask(200.0, "s", "w") == Wait(120.0)
    assert isinstance(limiter.ask(320.5, "s", "w"), Grant)


@given(attempt=st.integers(1, 10_000), wanted=st.none() | st.floats(0, 1e9), seed=st.integers(0, 50))
def test_pauses_are_bounded_and_never_shorter_than_asked_for(attempt, wanted, seed):
    retry = Retry(first_pause_s=1.0, longest_pause_s=60.0)
    pause = retry.pause_s(attempt, wanted, random.Random(seed), 1800.0)
    if wanted is not None:
        assert min(wanted, 1800) <= pause <= 1800
    else:
        assert pause <= 60
        assert pause >= min(2.0 ** min(attempt - 1, 60), 60) / 2


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "details", "@type", "retryDelay", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, st.text(max_size=30))
def test_whatever_a_service_says_about_coming_back_is_a_time_or_nothing(details, header):
    for wanted in (retry_info_s(details), retry_after_s({"retry-after": header})):
        assert wanted is None or 0 <= wanted < math.inf
