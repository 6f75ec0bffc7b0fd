"""A teacher behind any endpoint that speaks OpenAI's chat completions: a hosted one, vLLM's, or this project's own.

The thinking is read from `message.reasoning`, `message.reasoning_content` or `<think>…</think>` in the content. The key
comes from the environment and goes nowhere but into the header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import Field, SecretStr

from s1.teachers import service
from s1.teachers.protocol import REFUSED, Question, Status, TraceOutcome, classified, split_think_tags, storable
from s1.teachers.retry import retry_after_s
from s1.teachers.service import FATAL_CODES, NOTHING_USED, TRANSPORT_ERRORS, Service, is_transient, num_tokens, short

PROMPT_VERSION = "1"  # part of every ledger key: raise it when `body` asks in another way
_NO_CREDIT = "insufficient_quota"
# A model that is not there is a 404 nearly everywhere; with these services a 400.
_NO_MODEL = re.compile(
    r"model not exist"  # DeepSeek
    r"|is not a valid model id",  # OpenRouter
    re.IGNORECASE,
)
# What a filter says about one question: another one may fare better.
_FILTERED = re.compile(
    r"\bcontent_filter\b"  # Azure OpenAI, as the error's code
    r"|content exists risk"  # DeepSeek
    r"|requires moderation\b.*\bflagged",  # OpenRouter, with 403
    re.IGNORECASE,
)


class OpenAI(Service):
    """Which endpoint to ask, and how."""

    base_url: str = Field(default="http://127.0.0.1:8000/v1", description="Endpoint, up to and including /v1.")
    extra_body: dict[str, Any] = Field(default={}, description="Further fields of the request body.")

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


class OpenAITeacher:
    """Asks the endpoint. Use from one event loop; any number of questions at a time."""

    trace_kind = "raw"

    def __init__(self, settings: OpenAI, key: SecretStr | None = None) -> None:
        self.settings = settings
        self.name = settings.model
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._client = service.http_client(settings, headers)

    async def trace(self, question: Question) -> TraceOutcome:
        """One request."""
        url = f"{self.settings.base_url.rstrip('/')}/chat/completions"
        try:
            response = await self._client.post(url, json=self.settings.body(storable(question.question)))
        except TRANSPORT_ERRORS as error:
            return service.broken(self.settings, error)
        return self._answer(response) if response.status_code == 200 else _refusal(response.status_code, response)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _answer(self, response: httpx.Response) -> TraceOutcome:
        """The outcome of a response that arrived and is paid for."""
        try:
            payload = response.json()
            choice = payload["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            thinking, attempt = thinking_and_attempt(message)
            usage, version = payload.get("usage") or {}, payload.get("model")
            tokens_in, tokens_out = num_tokens(usage.get("prompt_tokens")), num_tokens(usage.get("completion_tokens"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            found = _error(response)
            if found is not None:  # OpenRouter says with 200 that its provider failed
                return _refusal(_status(found[0]), response)
            # Cut in transit or not the protocol: nothing that can be used, and maybe better the next time.
            cost_usd = self.settings.cost_usd(None, None)
            detail = f"not a chat completion ({type(error).__name__})"
            return TraceOutcome(Status.TRANSIENT, detail=detail, cost_usd=cost_usd)
        return classified(
            thinking,
            attempt,
            "refusal" if message.get("refusal") else str(reason or ""),
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cost_usd=self.settings.cost_usd(tokens_in, tokens_out),
            model_version=short(version) if isinstance(version, str) else "",
        )


def _refusal(code: int, response: httpx.Response) -> TraceOutcome:
    """The outcome of a status that is no success: the response's own, or the one that its text gives."""
    kind, text = _error(response) or ("", short(response.text))
    said = f"HTTP {code}" if response.status_code == code else f"HTTP {response.status_code}, error {kind}".rstrip()
    detail = f"{said}: {text}"
    if code in (400, 403) and _FILTERED.search(f"{kind} {text}"):
        return TraceOutcome(Status.BLOCKED, detail=detail, finish_reason="content_filter", **NOTHING_USED)
    # No credit comes as 429 too, and does not pass by waiting.
    if code in FATAL_CODES or _NO_CREDIT in response.text or (code == 400 and _NO_MODEL.search(text)):
        return TraceOutcome(Status.FATAL, detail=detail, **NOTHING_USED)
    if code == 429 or is_transient(code):
        status = Status.RATE_LIMITED if code == 429 else Status.TRANSIENT
        return TraceOutcome(status, detail=detail, retry_after_s=retry_after_s(response.headers), **NOTHING_USED)
    return TraceOutcome(Status.DECLINED, detail=detail, finish_reason=REFUSED, **NOTHING_USED)


def _status(kind: str) -> int:
    """The status that an error's code stands for; 502 when it stands for none."""
    return int(kind) if re.fullmatch("[45][0-9][0-9]", kind) else 502


def thinking_and_attempt(message: Mapping[str, Any]) -> tuple[str | None, str]:
    """Thinking and answer of a chat message, wherever the service puts them."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    for name in ("reasoning", "reasoning_content"):
        if isinstance(message.get(name), str) and message[name].strip():
            return message[name], str(content)
    return split_think_tags(str(content))


def _error(response: httpx.Response) -> tuple[str, str] | None:
    """The code that the service gives a failure, if any, and what it says about it, in one short line each.

    None when it says nothing in the way of the protocol.
    """
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    kind, text = (error.get("code"), error.get("message") or error) if isinstance(error, dict) else (None, error)
    return (short(kind or ""), short(text)) if text else None
