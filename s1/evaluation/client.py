"""Ask an OpenAI-compatible endpoint, many questions at a time.

Speaks the plain chat completions protocol over HTTP with the extra `budget_forcing` object, or without thinking vLLM's
`chat_template_kwargs`; nothing here knows what serves it.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from s1.endpoint import Endpoint
from s1.errors import UserError
from s1.evaluation.engine import Answer, Engine, Request, Segment, overflowed

ATTEMPTS = 6
RETRY_STATUS = frozenset({429, 500, 502, 503, 504})  # 500: a replica died under the request
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
# How servers say that a request does not fit: OpenAI's code, vLLM's and our own words.
_TOO_LONG = re.compile(r"context_length_exceeded|maximum context length|max_model_len|model's context", re.IGNORECASE)


@asynccontextmanager
async def connected(endpoint: Endpoint, *, concurrency: int, timeout_s: float) -> AsyncGenerator[Engine]:
    """The endpoint as an engine, with at most `concurrency` requests under way.

    A broken connection and the statuses 429, 500, 502, 503 and 504 are tried again, `ATTEMPTS` times in all, after
    what `Retry-After` asks for or else growing pauses. What still fails then, any other status and a timeout raise
    UserError; a request that does not fit the model's context is answered with nothing.
    """
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    timeout = httpx.Timeout(timeout_s, pool=None)
    places = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, headers=endpoint.headers) as client:

        async def ask(request: Request) -> Answer:
            if request.thinking:
                raise UserError(f"{endpoint.base_url}: an endpoint does not go on from a thinking; use --offline")
            async with places:
                return await _ask(client, endpoint, request)

        yield ask


async def _ask(client: httpx.AsyncClient, endpoint: Endpoint, request: Request) -> Answer:
    for attempt in range(1, ATTEMPTS + 1):
        started = time.monotonic()
        wait_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            response = await client.post(endpoint.url("chat/completions"), json=request.body())
        except httpx.TimeoutException as error:
            raise UserError(
                f"{request.model} gave no answer to {request.key} within the time limit ({error!r}); raise timeout_s "
                "and run the same command again, what is finished is kept; or lower the budgets, which starts over"
            ) from error
        except httpx.TransportError as error:
            if attempt == ATTEMPTS:
                raise UserError(
                    f"{endpoint.base_url}: lost {ATTEMPTS} times ({error!r}); bring it back and run the same command "
                    "again, what is finished is kept"
                ) from error
        else:
            if response.status_code == 400 and _TOO_LONG.search(response.text):
                return overflowed(time.monotonic() - started)
            if response.status_code not in RETRY_STATUS or attempt == ATTEMPTS:
                return read_answer(_payload(response, request), time.monotonic() - started)
            wait_s = retry_after_s(response.headers) or wait_s
        await asyncio.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that `Retry-After` asks to wait, at most `LONGEST_PAUSE_S`; None without a readable one.

    The header holds seconds or an HTTP date (RFC 9110, section 10.2.3).
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value).timestamp()
        except ValueError:
            return None
        seconds = moment - (time.time() if now is None else now)
    return min(LONGEST_PAUSE_S, max(0.0, seconds)) if seconds == seconds else None


def _payload(response: httpx.Response, request: Request) -> dict[str, Any]:
    if response.is_success:
        try:
            payload = response.json()
            payload["choices"][0]["message"]
        except (ValueError, LookupError, TypeError) as error:
            said = " ".join(response.text.split())[:200]
            raise UserError(f"{response.url}: not a chat completion: {said!r}; give another endpoint") from error
        return payload
    said = " ".join(response.text.split())[:300]
    tried = f" {ATTEMPTS} times" if response.status_code in RETRY_STATUS else ""
    raise UserError(
        f"{request.model} answered {response.status_code}{tried} to {request.key}: {said}; mend that and run the same "
        "command again, what is finished is kept"
    )


def read_answer(payload: dict[str, Any], latency_s: float) -> Answer:
    """The first choice of a chat completion; the `budget_forcing` object is optional, its usage stands in for it."""
    choice = payload["choices"][0]
    message = choice["message"]
    usage = payload.get("usage") or {}
    forced = payload.get("budget_forcing") or {}
    reasoning_tokens = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    completion_tokens = usage.get("completion_tokens") or 0
    thinking_tokens = forced.get("thinking_tokens", reasoning_tokens)
    segments = tuple(Segment(piece["text"], bool(piece["forced"])) for piece in forced.get("segments") or ())
    # An endpoint without budget forcing says at least that something was cut off.
    ended_by = forced.get("ended_by") or ("length" if choice.get("finish_reason") == "length" else None)
    return Answer(
        thinking=message.get("reasoning") or message.get("reasoning_content") or "",
        content=message.get("content") or "",
        thinking_tokens=thinking_tokens,
        forced_tokens=forced.get("forced_tokens", 0),
        answer_tokens=forced.get("answer_tokens", max(0, completion_tokens - thinking_tokens)),
        ended_by=ended_by,
        segments=segments,
        latency_s=round(latency_s, 4),
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=completion_tokens,
    )
