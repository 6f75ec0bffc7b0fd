"""Several generations of one request, through HTTP and the sampler."""

import json

import httpx
import pytest

from serving.asking import ENDLESS, ONGOING, QUEUED, ask, body, stream, wait_until_busy, wait_until_idle

HOT = {"temperature": 1.0, "seed": 3}


def test_more_generations_than_the_deployment_holds_all_come_to_their_end(client, engine):
    n = ONGOING + QUEUED + 6
    forcing = {"max_tokens": 8, "min_tokens": 8, "max_answer_tokens": 4}
    chunks = stream(client, parallel_sampling={"n": n}, budget_forcing=forcing, **HOT)
    progress = [chunk["parallel_sampling"]["done"] for chunk in chunks if "parallel_sampling" in chunk]
    assert progress == list(range(1, n + 1)) and not any("error" in chunk for chunk in chunks)
    wait_until_idle(engine)


def test_the_best_of_several_generations_answers(client):
    sampling = {"parallel_sampling": {"n": 4, "method": "best_of"}, "max_tokens": 40, **HOT}
    sampling["budget_forcing"] = {"max_tokens": 30, "grace_tokens": 30, "max_answer_tokens": 4}
    whole = ask(client, **sampling)
    report, parallel = whole["budget_forcing"], whole["parallel_sampling"]
    assert (parallel["method"], parallel["done"], len(whole["choices"])) == ("best_of", 4, 1)
    thought = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert report["ended_by"] == "natural" or report["thinking_tokens"] <= thought / 4
    assert ask(client, **sampling)["choices"] == whole["choices"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_frees_all_places(client, engine, streamed):
    request = body(**{**ENDLESS, "stream": streamed}, parallel_sampling={"n": 3}) | HOT
    if streamed:
        with client.stream("POST", "/v1/chat/completions", json=request):
            wait_until_busy(engine, 3)
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=request, timeout=1)
    wait_until_idle(engine)


def test_at_the_deadline_all_generations_are_given_up(client, engine):
    request = body(**{**ENDLESS, "stream": False}, parallel_sampling={"n": 3}, deadline_s=1) | HOT
    late = client.post("/v1/chat/completions", json=request)
    assert late.status_code == 504
    with client.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as response:
        *_, last = (line for line in response.iter_lines() if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 504
    wait_until_idle(engine)
