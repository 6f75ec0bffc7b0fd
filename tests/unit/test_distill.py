"""The distill job as far as it goes without Ray: options, mistakes, one worker by itself."""

import asyncio
import json

import pyarrow as pa
import pytest
from teacher_server import completion, refusal, teaching

from actors.teacher_pool import QUESTION_COLUMNS, TeacherWorker
from jobs.collect import JOB as COLLECT
from jobs.collect import CollectOptions
from jobs.distill import JOB, DistillOptions, Tally, check_losses
from jobs.runner import command, execute
from s1.errors import UserError
from s1.hashing import question_id
from s1.teachers import registry


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


def ask(worker: TeacherWorker, *texts: str) -> list[dict]:
    rows = [dict.fromkeys(QUESTION_COLUMNS) | {"question_id": question_id(t), "question": t} for t in texts]
    schema = pa.schema([(name, pa.string()) for name in QUESTION_COLUMNS])
    return asyncio.run(worker(pa.Table.from_pylist(rows, schema=schema))).to_pylist()


def options(base_url: str) -> DistillOptions:
    retry = {"attempts": 2, "first_pause_s": 0.01, "longest_pause_s": 0.02}
    return DistillOptions.model_validate(
        {"teacher": "openai", "openai": {"base_url": base_url, "model": "r1", "retry": retry}}
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


def test_losses_beyond_what_is_allowed_are_named_with_their_most_frequent_reason():
    def row(number: int, status: str, detail: str = "") -> dict:
        return {"question_id": str(number), "status": status, "detail": detail, "cost_usd": 0.5}

    rows = [
        row(0, "ok"),
        row(1, "transient", "HTTP 503: a"),
        row(2, "transient", "HTTP 503: a"),
        row(3, "declined", "b"),
    ]
    tally = Tally({str(number): value for number, value in enumerate(rows)})
    assert tally.note() == "1 ok, 3 dropped, $2.00"
    assert tally.dropped() == {"declined": 1, "transient": 2}
    with pytest.raises(UserError, match=r"2 of 4 requests failed .*HTTP 503: a.* --max-lost 0.5"):
        check_losses(DistillOptions(max_lost=0.4), tally)
    check_losses(DistillOptions(max_lost=0.5), tally)
    with pytest.raises(UserError, match=r"worked gave no trace for any of 1 questions \(declined: b\)"):
        check_losses(DistillOptions(), Tally({"3": rows[3]}))


def test_the_key_of_a_request_ignores_what_does_not_shape_the_answer():
    def identity(**changes: object) -> str:
        values = {"model": "r1", **changes}
        spec = registry.spec(DistillOptions.model_validate({"teacher": "openai", "openai": values}))
        return json.dumps(spec.identity("openai"), sort_keys=True)

    assert identity() == identity(timeout_s=5, base_url="http://other/v1", usd_per_million_output=3)
    assert len({identity(), identity(model="r2"), identity(max_tokens=9), identity(extra_body={"seed": 1})}) == 4
