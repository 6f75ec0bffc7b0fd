"""One worker that asks a teacher, by itself: ledger, cap, failures."""

import asyncio
import math
import re
from collections import Counter

import pyarrow as pa
import pytest
from chain_model import write_chain_model
from teacher_server import Reply, candidate, completion, refusal, teaching

from actors import rate_limiter
from actors.rate_limiter import RateLimiter
from actors.teacher_pool import OUTCOMES, QUESTION_COLUMNS, TeacherWorker
from jobs.distill import DistillOptions, take_recorded
from jobs.spool import Spool
from jobs.tally import Tally
from s1.hashing import question_id
from s1.teachers import ledger as ledgers
from s1.teachers import registry
from s1.teachers.ledger import Ledger, request_key


def questions(*texts: str) -> pa.Table:
    rows = [dict.fromkeys(QUESTION_COLUMNS) | {"question_id": question_id(t), "question": t} for t in texts]
    columns = pa.schema([(name, pa.string()) for name in QUESTION_COLUMNS])
    return pa.Table.from_pylist(rows, schema=columns)


def ask(worker: TeacherWorker, *texts: str) -> list[dict]:
    return asyncio.run(worker(questions(*texts))).to_pylist()


def options(base_url: str, **settings: object) -> DistillOptions:
    retry = {"attempts": 3, "first_pause_s": 0.01, "longest_pause_s": 0.02}
    return DistillOptions.model_validate(
        {"teacher": "openai", "openai": {"base_url": base_url, "model": "r1", "retry": retry, **settings}}
    )


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch):
    """There is none here to show signs of life."""
    monkeypatch.setattr(rate_limiter, "DRIVER_LEASE_S", math.inf)


def test_a_worker_takes_from_the_ledger_what_another_one_has_paid_for(tmp_path):
    with teaching(lambda text, _: completion("hm", text)) as server:
        spec = registry.spec(options(server.base_url))
        first, second = (TeacherWorker(spec, str(tmp_path / "ledger"), 4) for _ in range(2))
        bought = ask(first, "a", "b")
        assert ask(second, "b", "a", "c")[:2] == bought[::-1]
        assert server.asked == {"a": 1, "b": 1, "c": 1}
    assert {(row["teacher"], row["trace_kind"], row["status"]) for row in bought} == {("r1", "raw", "ok")}


def test_no_more_questions_are_under_way_than_allowed(tmp_path):
    import threading

    lock, under_way, most = threading.Lock(), [0], [0]
    full = threading.Event()

    def script(text: str, _: int):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
            if under_way[0] == 3:
                full.set()
        full.wait(10)  # until as many as allowed are here
        with lock:
            under_way[0] -= 1
        return completion("hm", text)

    with teaching(script) as server:
        worker = TeacherWorker(registry.spec(options(server.base_url)), None, 3)
        assert len(ask(worker, *"abcdefghi")) == 9
    assert most[0] == 3


GEMINI = candidate("hm", "7")  # 20 tokens of thinking and answer
DOLLAR_EACH = {"usd_per_million_output": 1e6 / 20, "expected_output_tokens": 20}


def test_at_the_cap_nothing_more_is_asked_and_what_was_bought_is_kept(tmp_path):
    with teaching(lambda text, _: completion("hm", text)) as server:
        spec = registry.spec(options(server.base_url, **DOLLAR_EACH))
        limiter = RateLimiter(spec.services, 20, max_usd=5.5)
        rows = ask(TeacherWorker(spec, str(tmp_path / "ledger"), 8, limiter), *"abcdefghijklmnopqrst")
        assert Counter(row["status"] for row in rows) == {"ok": 5, "unasked": 15}
        assert server.asked.total() == 5
        numbers = asyncio.run(limiter.report())
        assert (numbers.cost_usd, numbers.num_ok, numbers.num_left, numbers.tokens) == (5.0, 5, 15, 150)
        assert (
            numbers.stopped == "max_usd=5.5 is reached: $5.0000 are spent, another request is expected to cost $1.0000"
        )
        ledger = Ledger(str(tmp_path / "ledger"))
        ledger.refresh()
        assert len(ledger) == 5


def test_what_both_teachers_are_paid_is_in_the_cost_and_counts_against_the_cap_of_the_next_run(tmp_path):
    def script(text: str, count: int):
        # The second teacher is Gemini, on the same server, and is asked only about what was blocked.
        return completion("hm", text, reason="stop" if text == "a" else "content_filter") if count == 1 else GEMINI

    with teaching(script) as server:
        gemini = {"model": "g", "base_url": server.origin, "api_key_env": "", "usd_per_million_output": 1e6 / 20}
        values = options(server.base_url, **DOLLAR_EACH).model_dump() | {"then": "gemini", "gemini": gemini}
        spec = registry.spec(DistillOptions.model_validate(values))
        ledger = Ledger(str(tmp_path / "ledger"))
        rows = ask(TeacherWorker(spec, ledger.uri, 8, RateLimiter(spec.services, 3)), *"abc")
        assert [(row["status"], row["cost_usd"]) for row in rows] == [("ok", 1.0), ("ok", 2.0), ("ok", 2.0)]

        tally = Tally([row["question_id"] for row in rows], Spool(OUTCOMES, 10))
        recorded = take_recorded(tally, questions(*"abc"), spec, ledger)
        assert (recorded.spent_usd, tally.num_done, tally.cost_usd) == (5.0, 1, 1.0)
        assert recorded.answered == {"openai", "gemini"}
        limiter = RateLimiter(spec.services, 3, 5.5, recorded.spent_usd)
        again = ask(TeacherWorker(spec, ledger.uri, 8, limiter), *"bcd")
        assert [row["cost_usd"] for row in again] == [2.0, 2.0, 0.0]
        assert again[2]["status"] == "unasked"
        assert asyncio.run(limiter.report()).cost_usd == 5.0
        assert server.asked == {"a": 1, "b": 2, "c": 2}
        # A first teacher that costs nothing changes nothing about that.
        spec = registry.spec(DistillOptions.model_validate(values | {"teacher": "worked"}))
        assert take_recorded(tally, questions(*"abc"), spec, ledger).spent_usd == 2.0


def test_what_was_paid_for_in_vain_is_kept_in_the_cost_and_in_the_cap_of_every_later_run(tmp_path):
    broken = completion("half a", "half", reason="abort")

    def script(text: str, count: int):
        return completion("hm", text) if text == "a" and count == 3 else Reply(drop=True) if count == 1 else broken

    with teaching(script) as server:
        spec = registry.spec(options(server.base_url, **DOLLAR_EACH))
        ledger, limiter = Ledger(str(tmp_path / "ledger")), RateLimiter(spec.services, 2)
        rows = ask(TeacherWorker(spec, ledger.uri, 8, limiter), *"ab")
        assert [(row["status"], row["cost_usd"]) for row in rows] == [("ok", 3.0), ("transient", 3.0)]
        assert asyncio.run(limiter.report()).cost_usd == 6.0

        tally = Tally([row["question_id"] for row in rows], Spool(OUTCOMES, 10))
        recorded = take_recorded(tally, questions(*"ab"), spec, ledger)
        assert (recorded.spent_usd, tally.num_done, tally.cost_usd) == (6.0, 1, 6.0)
        limiter = RateLimiter(spec.services, 1, 8.5, recorded.spent_usd)
        (row,) = ask(TeacherWorker(spec, ledger.uri, 8, limiter), "b")
        assert (row["status"], row["cost_usd"]) == ("unasked", 2.0)
        assert server.asked == {"a": 3, "b": 5}
        ledger.compact()
        assert ledger.in_vain_usd(request_key(text, spec.identity("openai") or {}) for text in "ab") == 7.0


def test_failures_that_pass_are_asked_again_with_a_permit_each_and_others_are_not(tmp_path):
    def script(text: str, count: int):
        if text == "blocked":
            return completion("", "", reason="content_filter")
        return refusal(429) if count < 3 else completion("hm", text)

    with teaching(script) as server:
        spec = registry.spec(options(server.base_url))
        limiter = RateLimiter(spec.services, 3)
        rows = ask(TeacherWorker(spec, str(tmp_path / "ledger"), 8, limiter), "a", "blocked", "b")
        assert [row["status"] for row in rows] == ["ok", "blocked", "ok"]
        numbers = asyncio.run(limiter.report())
        assert (numbers.requests, numbers.num_ok, numbers.num_failed) == (7, 2, 1)
        again = TeacherWorker(spec, str(tmp_path / "ledger"), 8, RateLimiter(spec.services, 3))
        assert ask(again, "blocked")[0]["status"] == "blocked"
        assert server.asked == {"a": 3, "b": 3, "blocked": 1}


def test_a_fatal_answer_stops_every_worker(tmp_path):
    with teaching(lambda *_: refusal(401, "invalid key")) as server:
        spec = registry.spec(options(server.base_url))
        limiter = RateLimiter(spec.services, 9)
        assert {row["status"] for row in ask(TeacherWorker(spec, None, 1, limiter), *"abc")} == {"fatal"}
        assert {row["status"] for row in ask(TeacherWorker(spec, None, 1, limiter), *"abc")} == {"unasked"}
        assert server.asked.total() == 1


@pytest.mark.parametrize("case", ["all", "all but one", "answered before", "several kinds"])
def test_a_service_that_refuses_whatever_it_is_asked_is_asked_no_more(tmp_path, case):
    def script(text: str, _: int):
        if text == "question 7" and case == "all but one":
            return completion("hm", "7")
        kind = "mn"[int(text[-1]) % 2] if case == "several kinds" else "m"
        return refusal(422, f"unknown parameter 'effort' of {kind} (request req_{text[9:]}f3)")

    texts = [f"question {number}" for number in range(60)]
    with teaching(script) as server:
        spec = registry.spec(options(server.base_url))
        limiter = RateLimiter(spec.services, 60, answered=["openai"] if case == "answered before" else [])
        rows = ask(TeacherWorker(spec, str(tmp_path / "ledger"), 1, limiter), *texts)
        stopped = asyncio.run(limiter.report()).stopped
    if case == "all":
        assert server.asked.total() == 20
        assert Counter(row["status"] for row in rows) == {"declined": 20, "unasked": 40}
        assert stopped is not None
        assert stopped.startswith("openai refuses every request (HTTP 422: unknown parameter 'effort' of m (request")
    else:
        assert (server.asked.total(), stopped) == (60, None)


def test_refusals_are_not_recorded_and_a_ledger_that_cannot_be_written_stops_everything(tmp_path):
    with teaching(lambda *_: refusal(400, "too long")) as server:
        worker = TeacherWorker(registry.spec(options(server.base_url)), str(tmp_path / "ledger"), 4)
        assert [row["status"] for row in ask(worker, "a")] == ["declined"]
        assert not (tmp_path / "ledger").exists()
    (tmp_path / "file").write_text("in the way")
    with teaching(lambda *_: completion("hm", "7")) as server:
        worker = TeacherWorker(registry.spec(options(server.base_url)), str(tmp_path / "file" / "ledger"), 1)
        rows = ask(worker, *"abcdef")
        assert {row["status"] for row in rows} == {"fatal"}
        assert "cannot be written" in rows[0]["detail"]
        assert server.asked.total() == 1


def test_a_ledger_that_cannot_be_read_stops_everything_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "_PAUSE_S", 0.0)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "ledger").mkdir()
    with teaching(lambda *_: completion("hm", "7")) as server:
        spec = registry.spec(options(server.base_url))
        limiter = RateLimiter(spec.services, 9)
        rows = ask(TeacherWorker(spec, str(tmp_path / "file"), 2, limiter), *"abc")
        assert {row["status"] for row in rows} == {"fatal"}
        assert rows[0]["detail"].startswith(f"{tmp_path}/file: the ledger is out of reach")
        others = ask(TeacherWorker(spec, str(tmp_path / "ledger"), 2, limiter), *"abc")
        assert {row["status"] for row in others} == {"unasked"}
        # What can be listed and then not be read is the same.
        worker = TeacherWorker(spec, str(tmp_path / "ledger"), 2)
        ask(worker, "a")
        (path,) = (tmp_path / "ledger").iterdir()
        asyncio.run(worker(questions()))
        path.write_bytes(b"damaged")
        (row,) = ask(worker, "a")
        assert (row["status"], server.asked.total()) == ("fatal", 1)
        assert f"{path}: not a file of paid records" in row["detail"]


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("tokenizer.json", r"vllm.model='.*': its tokenizer does not load \("),
        ("nothing", r"the vLLM engine of '.*' does not start \(TypeError: .*no_such_setting.*\); see vllm.engine"),
    ],
)
def test_a_local_model_that_cannot_start_is_one_line_and_is_started_once(tmp_path, lacks, said):
    write_chain_model(tmp_path / "model", "\n", "hmm", "</think>", "seven", "<|im_end|>")
    (tmp_path / "model" / lacks).unlink(missing_ok=True)
    settings = {"model": str(tmp_path / "model"), "engine": {"no_such_setting": 1}}
    spec = registry.spec(DistillOptions.model_validate({"teacher": "vllm", "vllm": settings}))
    rows = ask(TeacherWorker(spec, str(tmp_path / "ledger"), 8), *"abc")
    assert {row["status"] for row in rows} == {"fatal"}
    (detail,) = {row["detail"] for row in rows}
    assert re.fullmatch(f"{said}.*", detail)
