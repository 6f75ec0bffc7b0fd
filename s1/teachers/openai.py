"""A teacher behind any endpoint that speaks OpenAI's chat completions: a hosted one, vLLM's, or this project's own.

The thinking is read from `message.reasoning`, `message.reasoning_content` or `<think>…</think>` in the content. Only
passing failures are asked again: 408, 409, 425, 429, 5xx, timeouts and broken connections, with bounded pauses that
honour `Retry-After`. The key comes from the environment and goes nowhere but into the header.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import Field, SecretStr

from s1.config import Config
from s1.errors import UserError
from s1.teachers.protocol import REFUSED, Question, Status, TraceOutcome, classified, split_think_tags
from s1.teachers.retry import Retry, retry_after_s

PROMPT_VERSION = "1"  # part of every ledger key: raise it when `body` asks in another way
TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FATAL_STATUS = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405})
_TRANSIENT_ERRORS = (httpx.TransportError, httpx.DecodingError)
_DETAIL_CHARS = 300


class OpenAI(Config):
    """Which endpoint to ask, and how."""

    base_url: str = Field(default="http://127.0.0.1:8000/v1", description="Endpoint, up to and including /v1.")
    model: str = Field(default="", description="Model name as the endpoint knows it.")
    api_key_env: str = Field(default="", description="Environment variable that holds the key; empty: no key.")
    system: str | None = Field(default=None, description="System prompt; none when left out.")
    max_tokens: int | None = Field(default=None, ge=1, description="Limit of one response, thinking included.")
    temperature: float | None = Field(default=None, ge=0, description="Sampling temperature; the service's default.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling; the service's default.")
    extra_body: dict[str, Any] = Field(default={}, description="Further fields of the request body.")
    timeout_s: float = Field(default=1800.0, gt=0, description="Longest wait for one response.")
    retry: Retry = Field(default=Retry(), description="When to ask again.")
    usd_per_million_input: float = Field(default=0.0, ge=0, description="Price of prompt tokens.")
    usd_per_million_output: float = Field(default=0.0, ge=0, description="Price of thinking and answer tokens.")

    def body(self, question: str) -> dict[str, Any]:
        """The request for one question."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        chosen = {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": question}],
            **{name: value for name, value in chosen.items() if value is not None},
            **self.extra_body,
        }

    def identity(self) -> dict[str, Any]:
        """What shapes an answer, for the ledger: how long to wait and what it costs do not."""
        return {"teacher": "openai", "prompt": PROMPT_VERSION, "body": self.body("")}


def check(settings: OpenAI) -> None:
    """Raise UserError when there is no model name, no usable URL or no key. Asks nobody."""
    if not settings.model:
        raise UserError("teacher openai needs --openai.model: the name that the endpoint knows")
    try:
        url = httpx.URL(settings.base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"openai.base_url={settings.base_url!r}: must be a URL such as http://127.0.0.1:8000/v1")
    api_key(settings)


def api_key(settings: OpenAI) -> SecretStr | None:
    """The key from the environment. UserError when it should be there and is not."""
    if not settings.api_key_env:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise UserError(f"openai.api_key_env={settings.api_key_env!r}: this environment variable is not set; export it")
    return SecretStr(key)


class OpenAITeacher:
    """Asks the endpoint. Use from one event loop; any number of questions at a time."""

    trace_kind = "raw"

    def __init__(self, settings: OpenAI, key: SecretStr | None = None) -> None:
        self.settings = settings
        self.name = settings.model
        self._draw = random.Random()
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        # How many go at once is the caller's business: the pool must not make its own queue.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(settings.timeout_s, connect=30.0)
        self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)

    async def trace(self, question: Question) -> TraceOutcome:
        """Ask, again when the failure may pass, at most `retry.attempts` times."""
        outcome = TraceOutcome(Status.TRANSIENT)
        for attempt in range(1, self.settings.retry.attempts + 1):
            outcome, retry_after = await self._ask(question.question)
            if outcome.status != Status.TRANSIENT or attempt == self.settings.retry.attempts:
                break
            await asyncio.sleep(self.settings.retry.pause_s(attempt, retry_after, self._draw))
        return outcome

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, question: str) -> tuple[TraceOutcome, float | None]:
        """One request: its outcome, and what it says about when to come back."""
        url = f"{self.settings.base_url.rstrip('/')}/chat/completions"
        try:
            response = await self._client.post(url, json=self.settings.body(question))
        except _TRANSIENT_ERRORS as error:
            return TraceOutcome(Status.TRANSIENT, detail=f"{type(error).__name__}: {error}"), None
        if response.status_code == 200:
            return self._read(response), None
        detail = f"HTTP {response.status_code}: {_error_text(response)}"
        # No credit comes as 429 too, and does not pass by waiting.
        fatal = response.status_code in FATAL_STATUS or "insufficient_quota" in response.text
        if response.status_code in TRANSIENT_STATUS and not fatal:
            return TraceOutcome(Status.TRANSIENT, detail=detail), retry_after_s(response.headers)
        return TraceOutcome(Status.FATAL if fatal else Status.DECLINED, detail=detail, finish_reason=REFUSED), None

    def _read(self, response: httpx.Response) -> TraceOutcome:
        """The outcome of a response that arrived and is paid for."""
        try:
            payload = response.json()
            choice = payload["choices"][0]
            message: Mapping[str, Any] = choice["message"]
        except (ValueError, LookupError, TypeError) as error:
            # Cut in transit or not the protocol: nothing that can be used, and maybe better the next time.
            return TraceOutcome(Status.TRANSIENT, detail=f"not a chat completion ({type(error).__name__})")
        thinking, attempt = thinking_and_attempt(message)
        usage: Mapping[str, Any] = payload.get("usage") or {}
        tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
        cost = (tokens_in or 0) * self.settings.usd_per_million_input
        cost += (tokens_out or 0) * self.settings.usd_per_million_output
        reason = "refusal" if message.get("refusal") else str(choice.get("finish_reason") or "")
        return classified(
            thinking, attempt, reason, input_tokens=tokens_in, output_tokens=tokens_out, cost_usd=cost / 1e6
        )


def thinking_and_attempt(message: Mapping[str, Any]) -> tuple[str | None, str]:
    """Thinking and answer of a chat message, wherever the service puts them."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    for name in ("reasoning", "reasoning_content"):
        if isinstance(message.get(name), str) and message[name].strip():
            return message[name], str(content)
    return split_think_tags(str(content))


def _error_text(response: httpx.Response) -> str:
    """What the service says about a failure, in one short line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:_DETAIL_CHARS]
