"""Clients that people have, unchanged."""

import asyncio
import json
import subprocess

import openai
import pytest

from serving.asking import KEY, QUESTION, body

ARGUMENTS = {
    "model": "base",
    "messages": [QUESTION],
    "temperature": 0,
    "max_tokens": 40,
    "extra_body": {"budget_forcing": {"max_tokens": 8, "min_tokens": 8}},
}


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_openais_client(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=300, max_retries=0)
    answer = client.chat.completions.create(**ARGUMENTS)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 8
    assert answer.choices[0].message.content.startswith("Final Answer:")
    assert text_of(client.chat.completions.create(stream=True, **ARGUMENTS)) == answer.choices[0].message.content
    assert [model.id for model in client.models.list()] == ["base"]
    text = client.completions.create(model="base", prompt=QUESTION["content"], temperature=0, max_tokens=40)
    assert text.choices[0].finish_reason in ("stop", "length")
    effort = client.chat.completions.create(**{**ARGUMENTS, "extra_body": None}, reasoning_effort="low")
    assert effort.usage.completion_tokens_details.reasoning_tokens == 6
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here; there are base"):
        client.chat.completions.create(**{**ARGUMENTS, "model": "gpt"})
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="wrong").models.list()


def test_openais_asynchronous_client(url):
    async def answers():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=300, max_retries=0) as client:
            whole = await client.chat.completions.create(**ARGUMENTS)
            pieces = await client.chat.completions.create(stream=True, **ARGUMENTS)
            return whole.choices[0].message.content, text_of([piece async for piece in pieces])

    whole, streamed = asyncio.run(answers())
    assert whole == streamed and whole.startswith("Final Answer:")


def test_curl(url):
    request = json.dumps(body(stream=True, thinking_token_budget=4))
    command = ["curl", "-sN", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    command += ["-H", f"Authorization: Bearer {KEY}", "-d", request]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: {") for line in lines[:-2])
