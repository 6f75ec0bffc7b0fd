"""The HTTP side: OpenAI's paths and errors in front of the forced engines."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response, StreamingResponse

from s1 import __version__
from serve.engine import EngineLost
from serve.protocol import (
    Accepted,
    Added,
    BadRequest,
    ChatRequest,
    Envelope,
    Event,
    Rejected,
    Report,
    error,
    parse,
)

MAX_BODY_BYTES = 4 * 2**20
RETRY_AFTER_S = 2  # a place in the queue is free again
REPLACED_AFTER_S = 10  # Serve has seen that a replica is lost: requests wait for the next one
HEALTH_TIMEOUT_S = 10.0

logger = logging.getLogger("ray.serve")


def _openapi() -> dict[str, Any]:
    """The description of the interface; the body of a chat is read by hand, so its schema is put in by hand."""
    description = get_openapi(title=api.title, version=__version__, description=api.description, routes=api.routes)
    body = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    description.setdefault("components", {}).setdefault("schemas", {}).update(body.pop("$defs"))
    content = {"application/json": {"schema": body}}
    description["paths"]["/v1/chat/completions"]["post"]["requestBody"] = {"required": True, "content": content}
    return description


class Events(Protocol):
    """What a handle's streaming call gives."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def __anext__(self) -> Event: ...

    def cancel(self) -> None: ...


api = FastAPI(title="s1", description="Chat completions with a budget for the thinking.")
api.openapi = _openapi


class Ingress:
    """Routes a request to the engine of its model. `engines`: model id -> handle of its deployment."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        self.engines = dict(engines)
        self.started = int(time.time())

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """The models that can be asked."""
        return {"object": "list", "data": [self._card(name) for name in self.engines]}

    @api.get("/v1/models/{name:path}", response_model=None)
    async def model(self, name: str) -> Response | dict[str, Any]:
        """One model."""
        return self._card(name) if name in self.engines else self._unknown(name)

    @api.get("/health")
    async def health(self) -> JSONResponse:
        """200 when every model answers, else 503 and which one does not."""
        states = await asyncio.gather(*(self._state(name) for name in self.engines))
        models = dict(zip(self.engines, states, strict=True))
        healthy = all(state == "ok" for state in states)
        return JSONResponse({"status": "ok" if healthy else "unavailable", "models": models}, 200 if healthy else 503)

    @api.post("/v1/chat/completions", response_model=None)
    async def chat(self, http: Request) -> Response:
        """A chat completion, as a whole or as a stream of server-sent events."""
        try:
            request = parse(await _body(http))
        except BadRequest as bad:
            return JSONResponse(error(400, str(bad), param=bad.param), 400)
        if request.model not in self.engines:
            return self._unknown(request.model)
        try:
            return await (self._stream(request) if request.stream else self._complete(request))
        except Exception as failure:
            return _failed(failure)

    async def _complete(self, request: ChatRequest) -> Response:
        outcome = await self.engines[request.model].complete.remote(request)
        if isinstance(outcome, Rejected):
            return _rejected(outcome)
        return JSONResponse(Envelope(request.model).completion(outcome))

    async def _stream(self, request: ChatRequest) -> Response:
        events: Events = self.engines[request.model].options(stream=True).stream.remote(request)
        # The status line is written before the first event is: wait until the engine has taken the request.
        first = await anext(events)
        if isinstance(first, Rejected):
            return _rejected(first)
        assert isinstance(first, Accepted)
        body = _server_sent(request, first, events)
        return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _state(self, name: str) -> str:
        from ray.serve.exceptions import BackPressureError

        try:
            await asyncio.wait_for(self.engines[name].ready.remote(), HEALTH_TIMEOUT_S)
        except BackPressureError:
            return "ok"  # busy
        except Exception as failure:
            return f"{type(failure).__name__}"
        return "ok"

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "s1"}

    def _unknown(self, name: str) -> JSONResponse:
        known = ", ".join(self.engines)
        return JSONResponse(error(404, f"model {name!r} is not served here; there are {known}", param="model"), 404)


async def _body(http: Request) -> Any:
    """The decoded JSON body."""
    raw = bytearray()
    async for chunk in http.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise BadRequest(f"the body has more than {MAX_BODY_BYTES} bytes; shorten the messages", "messages")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as bad:
        raise BadRequest(f"the body is not JSON: {bad}") from bad


async def _server_sent(request: ChatRequest, accepted: Accepted, events: Events) -> AsyncGenerator[str, None]:
    """OpenAI's stream: chunks, the usage when it was asked for, [DONE]."""
    envelope, reports = Envelope(request.model), dict[int, Report]()
    try:
        for choice in range(request.n):
            yield _sse(envelope.opening(choice))
        async for event in events:
            if isinstance(event, Added):
                yield _sse(envelope.added(event))
            elif not isinstance(event, Accepted | Rejected):
                reports[event.choice] = event.report
                yield _sse(envelope.finished(event))
        if request.stream_options is not None and request.stream_options.include_usage:
            yield _sse(envelope.usage(accepted.prompt_tokens, list(reports.values())))
    except Exception as failure:
        # The status has been sent: what went wrong can only be told in the stream.
        yield _sse(_failure(failure)[1])
        return
    finally:
        # A client that went away ends this generator, and must not keep the engine busy.
        events.cancel()
    yield "data: [DONE]\n\n"


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _rejected(rejected: Rejected) -> JSONResponse:
    return JSONResponse(error(400, rejected.message, param=rejected.param), 400)


def _failed(failure: Exception) -> JSONResponse:
    status, body = _failure(failure)
    wait = {429: RETRY_AFTER_S, 503: REPLACED_AFTER_S}.get(status)
    return JSONResponse(body, status, headers=None if wait is None else {"Retry-After": str(wait)})


def _failure(failure: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for a request that an engine did not finish."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    if isinstance(failure, BackPressureError):
        return 429, error(429, f"too many requests are waiting; try again in {RETRY_AFTER_S} s")
    if isinstance(failure, RayActorError | DeploymentUnavailableError | EngineLost):
        return 503, error(503, "the model's replica was lost; try again")
    logger.error("a request failed", exc_info=failure)
    return 500, error(500, "the request failed inside the server; its log says why")
