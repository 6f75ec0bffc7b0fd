"""The distill job as far as it goes without Ray: options, mistakes, one worker by itself."""

import asyncio
import json
import re
from collections import Counter

import pyarrow as pa
import pytest
from chain_model import write_chain_model
from hypothesis import given
from hypothesis import strategies as st
from teacher_server import Reply, candidate, completion, refusal, teaching

from actors.rate_limiter import RateLimiter
from actors.teacher_pool import OUTCOMES, QUESTION_COLUMNS, TeacherWorker
from jobs.collect import JOB as COLLECT
from jobs.collect import CollectOptions
from jobs.distill import JOB, DistillOptions, check_losses, check_stopped, look_through_recorded, take_recorded
from jobs.runner import command, execute
from jobs.spool import Spool
from jobs.tally import Tally
from s1 import schema
from s1.artifacts import Artifact, Manifest
from s1.errors import UserError
from s1.hashing import question_id
from s1.teachers import ledger as ledgers
from s1.teachers import registry
from s1.teachers.ledger import Ledger, request_key


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--teacher", "oracle"], "oracle"),
        (["--teacher", "recorded", "--recorded.path", "/nowhere.jsonl"], "/nowhere.jsonl: no such file or folder"),
        (["--teacher", "vllm", "--vllm.model", "./nowhere"], "model './nowhere': no such folder"),
        (["--teacher", "openai", "--openai.model", ""], "needs --openai.model"),
        (["--teacher", "openai", "--openai.api-key-env", "S1_NO_SUCH_KEY"], "this environment variable is not set"),
        (["--openai.temperature", "hot"], "--openai.temperature"),
        (["--pool.concurrency", "0"], "concurrency=0"),
        (["--max-lost", "2"], "max_lost=2"),
        (["--max-usd", "0"], "max_usd=0"),
        (["--teacher", "openai", "--openai.model", "r1", "--max-usd", "5"], "cannot be kept without a price of 'r1'"),
        (["--teacher", "gemini", "--gemini.model", "g", "--gemini.api-key-env", "S1_NO_SUCH_KEY"], "is not set"),
        ([], "distill needs the questions of this run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_ray_starts(tmp_path, capsys, argv, message):
    import ray

    with pytest.raises(SystemExit) as exit_:
        command(JOB, [*argv, "--run-dir", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not ray.is_initialized()
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_whom_it_would_ask(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?"}\n{"question": "Two?"}')
    execute(COLLECT, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    command(JOB, ["--run-dir", str(tmp_path / "run"), "--dry-run", "--num-questions", "1"])
    assert "asks: worked then recorded for 1 traces" in capsys.readouterr().out


def test_a_question_that_is_there_twice_is_named_before_anybody_is_asked(tmp_path):
    rows = [
        {"question_id": key, "question": f"{key}?", "split": split} for key, split in (("a", "train"), ("a", "test"))
    ]
    with Artifact(str(tmp_path / "questions")).staging() as staging:
        staging.write_table(schema.to_table(rows, schema.QUESTIONS))
        staging.commit(Manifest("collect", "q" * 16, {}, {}, "0", 2, 2))
    with pytest.raises(UserError, match=r"/questions: question_id 'a' is there 2 times; keep one row"):
        execute(JOB, DistillOptions(teacher="worked"), str(tmp_path))


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


def row(number: int, status: str, detail: str = "") -> dict:
    return {"question_id": str(number), "status": status, "detail": detail, "cost_usd": 0.5}


def tally_of(*rows: dict, total: int | None = None) -> Tally:
    tally = Tally([str(number) for number in range(total or len(rows))], Spool(OUTCOMES, 10))
    for each in rows:
        tally.add(each)
    return tally


def test_losses_beyond_what_is_allowed_are_named_with_their_most_frequent_reason():
    tally = tally_of(
        row(0, "ok"), row(1, "transient", "HTTP 503: a"), row(2, "rate_limited", "HTTP 503: a"), row(3, "declined", "b")
    )
    assert tally.note() == "1 ok, 3 dropped"
    assert tally.cost_usd == 2.0
    assert tally.dropped() == {"declined": 1, "rate_limited": 1, "transient": 1}
    assert tally.reasons()["declined"] == {"b": 1}
    with pytest.raises(UserError, match=r"2 of 4 requests failed .*HTTP 503: a.* --max-lost 0.5"):
        check_losses(DistillOptions(max_lost=0.4), tally)
    check_losses(DistillOptions(max_lost=0.5), tally)
    with pytest.raises(UserError, match=r"1 of 3 questions came back without an outcome.*run the same command again"):
        check_losses(DistillOptions(max_lost=1.0), tally_of(row(0, "ok"), row(1, "ok"), total=3))
    with pytest.raises(UserError, match=r"worked gave no trace for any of 1 questions \(declined: b\)"):
        check_losses(DistillOptions(), tally_of(row(0, "declined", "b")))


def test_reasons_that_differ_in_ids_and_numbers_are_one_reason():
    said = [f"HTTP 400: {n + 5000} tokens are too many (request req_{n:04x})" for n in range(30)]
    others = ["HTTP 503: not now", "HTTP 500: not now"]
    tally = tally_of(*(row(at, "declined", detail) for at, detail in enumerate([*said, *others])))
    assert tally.reasons() == {"declined": {said[0]: 30, **dict.fromkeys(others, 1)}}
    lost = tally_of(*(row(at, "transient", f"HTTP 503: busy (request {at})") for at in range(3)))
    assert lost.main_loss() == "HTTP 503: busy (request 0)"


def test_a_question_counts_once():
    tally = tally_of(row(0, "ok"), row(1, "ok"))
    tally.add(row(0, "blocked", "again"))
    assert (tally.num_done, tally.cost_usd, tally.dropped()) == (2, 1.0, {})


@given(order=st.permutations(range(40)), bucket_rows=st.integers(1, 50), kept=st.integers(0, 40))
def test_rows_that_come_in_any_order_leave_in_order(order, bucket_rows, kept):
    schema = pa.schema([("text", pa.string())])
    with Spool(schema, bucket_rows) as spool:
        for position in order[:kept]:
            spool.add(position, {"text": f"row {position}", "unknown": 1})
        rows = [each for table in spool.tables() for each in table.to_pylist()]
    assert rows == [{"position": position, "text": f"row {position}"} for position in sorted(order[:kept])]


PRICED = ["--openai.usd-per-million-input", "1", "--openai.usd-per-million-output", "2"]


def test_an_estimate_is_given_before_the_start(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"What is {number}?"}) for number in range(1000)))
    execute(COLLECT, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    argv = ["--run-dir", str(tmp_path / "run"), "--dry-run", "--teacher", "openai", "--openai.model", "r1", *PRICED]
    argv += ["--openai.expected-input-tokens", "100", "--openai.expected-output-tokens", "4000"]
    command(JOB, [*argv, "--openai.max-tokens", "8000", "--max-usd", "5"])
    out = capsys.readouterr().out
    assert "cost of openai: about $8.10 when all come to it and nothing is recorded (100 + 4,000 tokens each)" in out
    assert "at most $16.10 (8,000 tokens of response)" in out
    assert "cap: $5.00" in out


def test_recorded_traces_that_repeat_a_question_are_counted_once_before_the_start(tmp_path, capsys):
    path = tmp_path / "traces.jsonl"
    rows = [
        {"question": text, "thinking": str(at), "attempt": "7"} for at, text in enumerate(["A?", "B?", "a? ", "A?"])
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    options = DistillOptions.model_validate({"then": "recorded", "recorded": {"path": str(path)}})
    look_through_recorded(options)
    assert capsys.readouterr().err == f"distill: {path}: 2 row(s) repeat a question; its first row counts\n"
    path.write_text(json.dumps(rows[0]))
    look_through_recorded(options)
    look_through_recorded(DistillOptions())
    assert capsys.readouterr().err == ""


def test_at_the_cap_the_line_says_how_to_go_on(tmp_path):
    tally = tally_of(row(0, "ok"), row(1, "unasked", "cap"), row(2, "ok"))
    ledger = Ledger(str(tmp_path))
    with pytest.raises(UserError, match=r"cap; 1 of 3 questions are left.*run the same command.*--max-lost 0.334"):
        check_stopped(DistillOptions(), tally, "cap", ledger)
    check_stopped(DistillOptions(max_lost=0.334), tally, "cap", ledger)


def test_the_key_of_a_request_ignores_what_does_not_shape_the_answer():
    def identity(**changes: object) -> str:
        values = {"model": "r1", **changes}
        spec = registry.spec(DistillOptions.model_validate({"teacher": "openai", "openai": values}))
        return json.dumps(spec.identity("openai"), sort_keys=True)

    assert identity() == identity(timeout_s=5, base_url="http://other/v1", usd_per_million_output=3)
    assert len({identity(), identity(model="r2"), identity(max_tokens=9), identity(extra_body={"seed": 1})}) == 4


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
