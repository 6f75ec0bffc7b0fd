"""The distill job on a real Ray: worked traces, a paid endpoint, kills in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from chain_model import write_chain_model
from process_tree import below
from teacher_server import Reply, candidate, completion, google_error, refusal, teaching

from actors import rate_limiter
from jobs import collect, distill
from jobs.collect import CollectOptions
from jobs.distill import DistillOptions
from jobs.ray_session import ray_session
from jobs.runner import execute
from s1 import schema
from s1.artifacts import Artifact
from s1.errors import UserError
from s1.teachers.numbers import Finished

FAMILIES = {"products": {"count": 30, "min_digits": 2, "max_digits": 2}, "syllogism": {"count": 6}}


@pytest.fixture(scope="module")
def ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")  # ten seconds otherwise
        with ray_session():
            yield


def traces(run_dir: Path) -> list[dict]:
    return Artifact(str(run_dir / "traces")).read(schema.TRACES).to_pylist()


def collect_texts(run_dir: Path, texts: list[str]) -> None:
    path = run_dir / "questions.jsonl"
    run_dir.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps({"question": text, "answer": "7"}) for text in texts))
    execute(collect.JOB, CollectOptions(source="files", path=str(path)), str(run_dir))


def endpoint(base_url: str, **settings: object) -> DistillOptions:
    retry = {"attempts": 3, "first_pause_s": 0.01, "longest_pause_s": 0.05}
    return DistillOptions.model_validate(
        {
            "teacher": "openai",
            "openai": {"base_url": base_url, "model": "r1", "retry": retry, "usd_per_million_output": 1000.0},
            "pool": {"num_cpus": 0.1, "concurrency": 8},
            **settings,
        }
    )


def distill_process(run_dir: Path, base_url: str, *, grace_s: float = 20.0) -> subprocess.Popen[bytes]:
    flags = {
        "run-dir": run_dir,
        "teacher": "openai",
        "openai.model": "r1",
        "openai.base-url": base_url,
        "pool.concurrency": 8,
        "pool.num-cpus": 0.1,
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    start = f"from jobs import distill, runner, teacher_watch as watch; watch._GRACE_S = {grace_s}"
    command = [sys.executable, "-c", f"{start}; runner.command(distill.JOB)", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)


def test_a_run_that_is_interrupted_and_then_killed_goes_on_without_paying_twice(tmp_path):
    texts = [f"question {number}" for number in range(160)]
    collect_texts(tmp_path, texts)

    def script(*_: object) -> Reply:
        time.sleep(0.15)
        return completion("hm", "7")

    with teaching(script) as server:
        driver = distill_process(tmp_path, server.base_url)
        assert server.wait_for(20, timeout_s=600)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
        _, log = driver.communicate(timeout=600)
        assert driver.returncode == 130, log.decode()
        assert b"distill: 0 recorded, 160 to ask" in log
        assert b"paid request(s) under way are waited for" in log
        assert b"interrupted: what was finished is kept; run the same command again to go on" in log
        num_paid = server.paid.total()
        assert 20 <= num_paid < len(texts)

        driver = distill_process(tmp_path, server.base_url)
        assert server.wait_for(num_paid + 30, timeout_s=600)
        assert server.paid.most_common(1)[0][1] == 1, "what was under way at the interruption was paid for again"
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
        assert server.goes_quiet(timeout_s=120), "requests go on after the driver's death"
        assert server.paid.total() < len(texts)

        driver = distill_process(tmp_path, server.base_url)
        _, log = driver.communicate(timeout=600)
        assert driver.returncode == 0, log.decode()
        # Whoever was under way at the kill may have been paid in vain; nobody else is asked twice.
        assert server.paid.total() <= len(texts) + 8
        assert set(server.paid) == set(texts)
    assert [row["question"] for row in traces(tmp_path)] == texts


def test_sigterm_whose_grace_is_over_ends_the_job_as_sigterm_does(tmp_path):
    collect_texts(tmp_path, [f"question {number}" for number in range(6)])
    answer = threading.Event()

    def script(text: str, _: int) -> Reply:
        if text != "question 0":
            answer.wait(600)
        return completion("hm", "7")

    with teaching(script) as server:
        driver = distill_process(tmp_path, server.base_url, grace_s=0.5)
        assert server.wait_for(1, timeout_s=600)
        os.kill(driver.pid, signal.SIGTERM)
        _, log = driver.communicate(timeout=600)
        answer.set()
    assert driver.returncode == 143, log.decode()
    assert b"paid request(s) under way are waited for" in log
    assert log.strip().splitlines()[-1].startswith(b"terminated: what was finished is kept")


def test_both_jobs_make_traces_of_training_questions_and_count_what_is_declined(ray, tmp_path):
    execute(collect.JOB, CollectOptions(source="gym", gym=FAMILIES, num_test=3), str(tmp_path))
    manifest = execute(distill.JOB, DistillOptions(teacher="worked"), str(tmp_path))
    questions = Artifact(str(tmp_path / "questions")).read(schema.QUESTIONS).to_pylist()
    wanted = [row["question_id"] for row in questions if row["split"] == "train" and row["domain"] == "products"]
    rows = traces(tmp_path)
    assert [row["question_id"] for row in rows] == wanted
    assert all(row["thinking"].endswith(row["answer"]) and row["attempt"] == row["answer"] for row in rows)
    assert {row["teacher"] for row in rows} == {row["trace_kind"] for row in rows} == {"worked"}
    assert manifest.dropped == {"declined": 3}
    assert manifest.rows_in == len(wanted) + 3
    assert not (tmp_path / "_ledger").exists()


def test_recorded_solutions_become_traces(ray, tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(
        '{"question": "How many?", "answer": "3 x 4 = 12\\n#### 12"}\n{"question": "And now?", "answer": "13"}'
    )
    execute(collect.JOB, CollectOptions(source="files", path=str(path)), str(tmp_path / "run"))
    manifest = execute(distill.JOB, DistillOptions(teacher="recorded"), str(tmp_path / "run"))
    (row,) = traces(tmp_path / "run")
    assert (row["thinking"], row["attempt"], row["trace_kind"]) == ("3 x 4 = 12", "12", "recorded")
    assert manifest.dropped == {"declined": 1}


def test_recorded_traces_that_cannot_be_used_are_set_aside_and_counted(ray, tmp_path, capsys):
    asked, path, run_dir = tmp_path / "questions.jsonl", tmp_path / "traces.jsonl", tmp_path / "run"
    asked.write_text('{"question": "One?"}\n{"question": "Two?"}\n{"question": "Three?"}')
    trace = '{"question": "%s", "thinking": "%s", "attempt": "1"}\n'
    lines = ["not JSON\n", trace % ("One?", "first"), '{"question": "Two?"}\n', trace % ("Two?", "second")]
    path.write_text("".join([*lines, trace % ("One?", "later"), '{"attempt": "1"}']))
    execute(collect.JOB, CollectOptions(source="files", path=str(asked)), str(run_dir))
    recorded = {"path": str(path), "on_fault": "set_aside"}
    options = DistillOptions.model_validate({"teacher": "recorded", "recorded": recorded})
    manifest = execute(distill.JOB, options, str(run_dir))
    assert {row["question"]: row["thinking"] for row in traces(run_dir)} == {"One?": "first", "Two?": "second"}
    assert manifest.dropped == {"declined": 1} and manifest.facts["recorded_set_aside"] == 3
    listed = (run_dir / "traces" / "_set_aside.txt").read_text().splitlines()
    starts = [f"{path}: row 1: not JSON", f"{path}: row 3: no attempt", f"{path}: row 6: no question"]
    assert len(listed) == 3 and all(map(str.startswith, listed, starts))
    said = capsys.readouterr().err
    assert "1 row(s) repeat a question" in said and "distill: 3 rows set aside, listed in _set_aside.txt: " in said


def test_what_the_first_teacher_declines_goes_to_the_second(ray, tmp_path):
    path = tmp_path / "traces.jsonl"
    execute(collect.JOB, CollectOptions(source="gym", gym=FAMILIES), str(tmp_path))
    questions = Artifact(str(tmp_path / "questions")).read(schema.QUESTIONS).to_pylist()
    path.write_text(
        "\n".join(
            json.dumps({"question": row["question"], "thinking": "recorded", "attempt": row["answer"]})
            for row in questions
        )
    )
    options = DistillOptions.model_validate({"then": "recorded", "recorded": {"path": str(path), "kind": "raw"}})
    manifest = execute(distill.JOB, options, str(tmp_path))
    assert manifest.rows_out == len(questions)
    kinds = {row["domain"]: (row["teacher"], row["trace_kind"]) for row in traces(tmp_path)}
    assert kinds == {"products": ("worked", "worked"), "syllogism": ("recorded", "raw")}
    path.write_text('{"question": "half a row"}')
    with pytest.raises(UserError, match=r"traces.jsonl: row 1: no attempt"):
        execute(distill.JOB, options, str(tmp_path))


def test_a_local_model_teaches_through_vllm(ray, tmp_path):
    write_chain_model(tmp_path / "model", "\n", "hmm", "</think>", "seven", "<|im_end|>")
    collect_texts(tmp_path, ["first", "second"])
    options = {
        "teacher": "vllm",
        "vllm": {
            "model": str(tmp_path / "model"),
            "temperature": 0,
            "max_tokens": 50,
            "engine": {"max_model_len": 256, "enforce_eager": True, "max_num_seqs": 8},
        },
        "pool": {"num_cpus": 0.5},
    }
    manifest = execute(distill.JOB, DistillOptions.model_validate(options), str(tmp_path))
    assert [(row["thinking"], row["attempt"]) for row in traces(tmp_path)] == [("hmm", "seven")] * 2
    assert {row["finish_reason"] for row in traces(tmp_path)} == {"stop"}
    assert manifest.facts["num_asked"] == 2
    # Its work is not done twice either: no engine has to start for this one.
    collect_texts(tmp_path, ["second", "first"])
    assert execute(distill.JOB, DistillOptions.model_validate(options), str(tmp_path)).facts["num_asked"] == 0


def test_every_end_of_a_paid_request_is_classified_counted_and_bought_once(ray, tmp_path):
    kinds = {
        "cut": completion("half", "", reason="length"),
        "bare": completion("", "7"),
        "blocked": completion("", "", reason="content_filter"),
    }

    def script(question: str, count: int) -> Reply:
        if question == "flaky":
            return completion("hm", "7") if count == 3 else refusal(503)
        return kinds.get(question, completion(f"about {question}", "7"))

    texts = ["fine one", "cut", "flaky", "bare", "blocked", "fine two"]
    collect_texts(tmp_path, texts)
    with teaching(script) as server:
        manifest = execute(distill.JOB, endpoint(server.base_url), str(tmp_path))
        assert manifest.dropped == {"blocked": 1, "malformed": 1, "truncated": 1}
        assert manifest.facts["reasons"]["malformed"] == {"no thinking": 1}
        assert manifest.cost_usd == pytest.approx(6 * 20 * 1000 / 1e6)
        assert [row["question"] for row in traces(tmp_path)] == ["fine one", "flaky", "fine two"]
        assert server.asked == {**dict.fromkeys(texts, 1), "flaky": 3}
        # More questions, another order, other workers: only the new one is asked.
        collect_texts(tmp_path, ["fine three", *reversed(texts)])
        options = endpoint(server.base_url, pool={"num_workers": 2, "num_cpus": 0.1, "concurrency": 2})
        manifest = execute(distill.JOB, options, str(tmp_path))
        assert manifest.facts["num_asked"] == 1
        assert server.asked.total() == 8 + 1
        assert [row["question"] for row in traces(tmp_path)] == ["fine three", "fine two", "flaky", "fine one"]


def test_gemini_writes_summaries_within_its_limits(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "sesame")
    wanted = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}]
    slow_down = google_error(429, "RESOURCE_EXHAUSTED", "slow", wanted)

    def script(question: str, count: int) -> Reply:
        if question == "blocked":
            return Reply({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 10}})
        # Of a few only: were all refused at first, the circuit breaker would open, and the test take minutes.
        refused = count == 1 and question.endswith(("3", "7"))
        return slow_down if refused else candidate(f"about {question}", "7")

    collect_texts(tmp_path, [*(f"question {number}" for number in range(20)), "blocked"])
    with teaching(script) as server:
        settings = {
            "teacher": "gemini",
            "gemini": {
                "model": "gemini-test",
                "base_url": server.origin,
                "usd_per_million_output": 1000.0,
                "expected_output_tokens": 20,
                "limits": {"max_concurrency": 4, "requests_per_minute": 1200},
            },
            "max_usd": 1.0,
            "pool": {"num_workers": 2, "num_cpus": 0.1, "concurrency": 8},
        }
        manifest = execute(distill.JOB, DistillOptions.model_validate(settings), str(tmp_path))
        assert server.most_under_way <= 4
    rows = traces(tmp_path)
    assert {(row["trace_kind"], row["model_version"]) for row in rows} == {("summary", "gemini-test-001")}
    assert (len(rows), manifest.dropped) == (20, {"blocked": 1})
    assert manifest.cost_usd == pytest.approx(20 * 0.02)


def test_the_numbers_of_the_progress_line_are_metrics_of_ray(ray):
    import ray as session

    limiter = rate_limiter.start({}, 10, None, 2.5)
    session.get(limiter.renew.remote("worker", Finished({"ok": 3, "blocked": 1}, tokens=120)))
    node = session.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {"ok": 3.0, "failed": 1.0, "left": 6.0, "tokens": 120.0, "cost_usd": 2.5}
    found: dict[str, float] = {}
    end = time.monotonic() + 600
    while found != wanted and time.monotonic() < end:
        session.get(limiter.publish.remote())
        lines = httpx.get(address).text.splitlines()
        values = {name: [line for line in lines if line.startswith(f"ray_s1_distill_{name}{{")] for name in wanted}
        found = {name: float(text[0].split()[-1]) for name, text in values.items() if text}
        time.sleep(0.2)
    assert found == wanted


def test_a_bad_key_stops_the_job_at_once_and_keeps_what_was_there(ray, tmp_path):
    collect_texts(tmp_path, [f"question {number}" for number in range(200)])
    with teaching(lambda *_: refusal(401, "invalid key")) as server:
        with pytest.raises(UserError, match="r1: HTTP 401: invalid key; what was finished is kept"):
            execute(distill.JOB, endpoint(server.base_url), str(tmp_path))
        assert server.asked.total() <= 8
    assert Artifact(str(tmp_path / "traces")).manifest() is None


def test_requests_that_keep_failing_stop_the_job_and_only_they_are_asked_again(ray, tmp_path):
    collect_texts(tmp_path, [f"question {number}" for number in range(10)])
    healthy = False
    with teaching(lambda text, _: completion("hm", "7") if healthy or text[-1] != "3" else refusal(503)) as server:
        with pytest.raises(UserError, match=r"1 of 10 requests failed repeatedly \(HTTP 503: not now\)"):
            execute(distill.JOB, endpoint(server.base_url), str(tmp_path))
        allowed = execute(distill.JOB, endpoint(server.base_url, max_lost=0.1), str(tmp_path))
        assert (allowed.rows_out, allowed.dropped) == (9, {"transient": 1})
        healthy = True
        assert execute(distill.JOB, endpoint(server.base_url), str(tmp_path)).rows_out == 10
        assert server.asked.total() == 9 + 3 + 3 + 1


def test_a_killed_worker_is_replaced_and_what_it_finished_is_not_bought_again(ray, tmp_path):
    texts = [f"question {number}" for number in range(120)]
    collect_texts(tmp_path, texts)
    killed: list[int] = []

    def script(*_: object) -> Reply:
        time.sleep(0.1)
        if server.finished.total() >= 40 and not killed:
            killed.extend(actors_of_ray("TeacherWorker"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return completion("hm", "7")

    with teaching(script) as server:
        manifest = execute(distill.JOB, endpoint(server.base_url), str(tmp_path))
        assert killed
        assert sum(count - 1 for count in server.asked.values()) <= 8
    assert manifest.rows_out == len(texts)
    assert [row["question"] for row in traces(tmp_path)] == texts


def test_when_the_limits_are_gone_the_job_ends_in_one_line_and_goes_on_when_it_is_run_again(ray, tmp_path):
    texts = [f"question {number}" for number in range(60)]
    collect_texts(tmp_path, texts)
    killed: list[int] = []

    def script(*_: object) -> Reply:
        time.sleep(0.1)
        if server.finished.total() >= 10 and not killed:
            killed.extend(actors_of_ray("RateLimiter"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return completion("hm", "7")

    with teaching(script) as server:
        with pytest.raises(UserError, match=r"gives out the permits of this job has died .*run the same command again"):
            execute(distill.JOB, endpoint(server.base_url), str(tmp_path))
        assert killed
        assert execute(distill.JOB, endpoint(server.base_url), str(tmp_path)).rows_out == len(texts)
        assert server.paid.total() == len(texts), "what was under way is waited for, and not paid for again"


def actors_of_ray(name: str) -> list[int]:
    """Processes of this process's own Ray actors of this class."""
    return [process.pid for process in below(name)]
