"""The parts of the HTTP side that need no server: responses, keys, votes, metrics, the dashboard."""

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect

from serve import votes
from serve.calls import follow
from serve.events import Accepted, Added, Choice, Completed, Finished, Progress, Report, Segment, Vote
from serve.failures import failure
from serve.keys import KeyRing, hashed, new_key
from serve.metrics import Metrics
from serve.protocol import ChatRequest, ParallelSampling, Terms, parse
from serve.responses import Envelope

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "forcing.json"


def report(**changes):
    values = {"thinking_tokens": 3, "forced_tokens": 2, "answer_tokens": 4, "completion_tokens": 9, "rounds": 1}
    values |= {"max_tokens": 3, "ended_by": "budget", "unmet": None, "finish_reason": "stop"}
    return Report(**values | changes)


def choice(content, **changes):
    return Choice(
        "hm", content, (Segment("hm", False, "thinking"), Segment("Wait", True, "thinking")), report(**changes)
    )


def added(content):
    segments = (Segment("hm", False, "thinking"), Segment(content, False, "answer"))
    return Added(0, "hm", content, segments, thinking_tokens=1, forced_tokens=0, answer_tokens=1)


def test_a_message_has_its_reasoning_by_both_names_and_content_that_is_never_null():
    whole = Envelope("chat", "m").completion(Completed(5, (choice(""),)))
    message = whole["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "", "reasoning": "hm", "reasoning_content": "hm"}
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert whole["usage"]["total_tokens"] == 14
    assert whole["budget_forcing"]["segments"][1] == {"text": "Wait", "forced": True, "part": "thinking"}


def test_a_text_completion_has_the_answer_as_its_text():
    whole = Envelope("text", "m").completion(Completed(5, (choice("4"),)))
    assert whole["object"] == "text_completion" and whole["id"].startswith("cmpl-")
    assert (whole["choices"][0]["text"], whole["choices"][0]["reasoning"]) == ("4", "hm")


def test_excluded_reasoning_is_nowhere_in_the_response():
    envelope = Envelope("chat", "m", with_reasoning=False)
    sent = [
        envelope.completion(Completed(5, (choice("4"),))),
        *envelope.added(added("")),
        *envelope.added(added("4")),
        envelope.finished(Finished(0, report())),
    ]
    assert "hm" not in json.dumps(sent) and len(sent) == 3
    assert sent[0]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


def test_a_chunk_holds_reasoning_or_content():
    """One block each, even where the thinking ends in the middle of what came at once."""
    chunks = Envelope("chat", "m").added(added("4"))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"reasoning": "hm", "reasoning_content": "hm"}, {"content": "4"}]
    assert ["budget_forcing" in chunk for chunk in chunks] == [True, False]


def test_a_stream_with_usage_has_the_key_in_every_chunk_and_its_value_in_the_last():
    envelope = Envelope("chat", "m", with_usage=True)
    *chunks, last = [
        envelope.opening(0),
        *envelope.added(added("4")),
        envelope.finished(Finished(0, report())),
        envelope.usage(5, [report()]),
    ]
    assert all(chunk["usage"] is None for chunk in chunks) and last["usage"]["prompt_tokens"] == 5
    assert "usage" not in Envelope("chat", "m").opening(0)


def test_all_generations_of_a_parallel_sampling_are_in_the_usage():
    progress = [Progress(done, 2, (Vote("4", done),), report()) for done in (1, 2)]
    whole = Envelope("chat", "m").completion(Completed(5, (choice("4"),)), progress, ParallelSampling(n=2))
    assert whole["usage"]["completion_tokens"] == 18
    votes_told = [{"answer": "4", "count": 2}]
    assert whole["parallel_sampling"] == {"done": 2, "n": 2, "votes": votes_told, "method": "majority"}


def test_the_majority_answers():
    answers = [choice(text) for text in ("Final Answer: 5", "so 4\nAnswer: 4", "", "Final Answer: 4.0", "Answer: 7")]
    assert votes.majority(answers) == 1
    assert [(vote.answer, vote.count) for vote in votes.count(answers)] == [("4", 2), ("5", 1), ("7", 1)]
    assert votes.majority(answers[:2]) == 0, "the first answer wins a tie"
    assert votes.majority([choice(""), choice(" ")]) == 0


def test_the_best_ended_by_itself_and_thought_least():
    natural = {"ended_by": "natural", "finish_reason": "stop"}
    generations = [
        choice("1", thinking_tokens=1),
        choice("2", thinking_tokens=9, **natural),
        choice("3", thinking_tokens=5, **natural),
        choice("4", thinking_tokens=2, ended_by="natural", finish_reason="length"),
    ]
    assert votes.best(generations) == 2
    assert votes.best([choice("", thinking_tokens=1), choice("2", thinking_tokens=9)]) == 1
    direct = {"ended_by": None, "thinking_tokens": 0}
    assert votes.best([choice("1", finish_reason="length", **direct), choice("2", **direct)]) == 1


def test_a_key_opens_and_nothing_else_does():
    key = new_key()
    ring = KeyRing({"ann": hashed(new_key()), "ben": hashed(key)})
    assert ring.owner(f"Bearer {key}") == ring.owner(f"bearer {key}") == "ben"
    for wrong in (None, "", "Bearer", f"Basic {key}", f"Bearer {key}x", f"Bearer {hashed(key)}", "Bearer \udce4"):
        assert ring.owner(wrong) is None
    assert KeyRing({}).owner(None) == ""


def test_a_client_that_leaves_while_it_sends_its_body_is_no_failure_of_the_server(serve_log):
    assert failure(ClientDisconnect()).status == 499
    assert failure(RuntimeError("ours")).status == 500
    assert [record.exc_info[1].args for record in serve_log.records] == [("ours",)]


def test_metrics_say_what_forcing_did():
    metrics = Metrics(["m"])
    metrics.completed("m", report(rounds=2, unmet="context", ended_by="context"))
    text = metrics.text().decode()
    for line in (
        's1_thinking_tokens_total{model="m"} 3.0',
        's1_forced_tokens_total{model="m"} 2.0',
        's1_ignored_ends_total{model="m"} 2.0',
        's1_thinking_ends_total{ended_by="context",model="m"} 1.0',
        's1_unmet_minimums_total{model="m",why="context"} 1.0',
        's1_requests_waiting{model="m"} 0.0',
    ):
        assert line in text.splitlines()


def test_what_was_generated_for_a_client_that_left_is_counted():
    metrics = Metrics(["m"])
    order = parse(ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 2}, Terms())

    async def events():
        yield Accepted(7)
        for tokens in (2, 5):
            yield Added(0, "hm", "", (), thinking_tokens=tokens, forced_tokens=1, answer_tokens=0)
        yield Added(1, "", "4", (), thinking_tokens=3, forced_tokens=2, answer_tokens=4)
        yield Finished(1, report())
        yield Added(0, "hm", "", (), thinking_tokens=9, forced_tokens=1, answer_tokens=0)

    async def leave():
        following = follow(order, events(), time.monotonic(), metrics)
        for _ in range(5):
            await anext(following)
        await following.aclose()

    asyncio.run(leave())
    lines = metrics.text().decode().splitlines()
    for name, tokens in (("thinking", 5 + 3), ("forced", 1 + 2), ("answer", 4)):
        assert f's1_{name}_tokens_total{{model="m"}} {float(tokens)}' in lines
    assert 's1_thinking_length_tokens_count{model="m"} 1.0' in lines  # of whole completions


def test_a_completion_that_was_not_to_think_has_no_end_of_thinking():
    metrics = Metrics(["m"])
    metrics.completed("m", report(thinking_tokens=0, forced_tokens=0, ended_by=None))
    text = metrics.text().decode()
    assert 's1_answer_tokens_total{model="m"} 4.0' in text.splitlines()
    assert "s1_thinking_ends_total{" not in text and "s1_thinking_length_tokens_count{" not in text


def test_the_dashboard_shows_metrics_that_there_are():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    metrics = Metrics(["m"])
    metrics.completed("m", report(unmet="context"))
    metrics.requests.labels("m", "200").inc()
    for seen in (metrics.waited, metrics.first, metrics.took):
        seen.labels("m").observe(1)
    known = {line.split("{")[0] for line in metrics.text().decode().splitlines() if line.startswith("s1_")}
    used = {name for expr in asked for name in re.findall(r"\bs1_\w+", expr)}
    assert used and used <= known
    families = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in known}
    assert families == {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in used}, "a metric is not shown"


def test_every_panel_shows_the_models_that_were_chosen():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    labels = [label for expr in asked for label in re.findall(r"\b(?:s1|ray)_\w+(?:{(\w+)=~\"\$model\"})?", expr)]
    assert set(labels) == {"model", "model_name"}
    (model,) = (variable for variable in dashboard["templating"]["list"] if variable["name"] == "model")
    assert re.fullmatch(model["allValue"], "")  # requests that were refused before their model was known


@pytest.mark.parametrize("panel", json.loads(DASHBOARD.read_text())["panels"] if DASHBOARD.exists() else [])
def test_every_panel_has_a_place_and_a_unit(panel):
    assert panel["title"] and panel["gridPos"]["w"] + panel["gridPos"]["x"] <= 24
    assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]
