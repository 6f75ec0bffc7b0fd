"""Google's Gemini as teacher, through google-genai's asynchronous client.

Its thoughts come as summaries and are labelled so. A blocked prompt has no candidates and a block reason; recitation
and the token limit leave no text: all of them are final, and paid for. The key comes from the environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import httpx
from pydantic import Field, SecretStr

from s1.teachers import service
from s1.teachers.protocol import REFUSED, Question, Status, TraceOutcome, classified, storable
from s1.teachers.retry import error_details, retry_after_s, retry_info_s
from s1.teachers.service import FATAL_CODES, NOTHING_USED, TRANSPORT_ERRORS, Service, is_transient, num_tokens, short

if TYPE_CHECKING:
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentConfig, GenerateContentResponse

PROMPT_VERSION = "1"  # part of every ledger key: raise it when questions are asked in another way
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_BLOCKED = frozenset(
    {"SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT"}
)


class Gemini(Service):
    """Which of Google's models to ask, and how."""

    base_url: str = Field(default="", description="Address of the service; by default Google's own.")
    api_key_env: str = Field(default="GEMINI_API_KEY", description="Environment variable that holds the key.")
    thinking_level: Literal["minimal", "low", "medium", "high"] | None = Field(
        default=None, description="How much Gemini 3 thinks; by default the model's own choice."
    )
    thinking_budget: int | None = Field(
        default=None,
        ge=-1,
        description="Thinking tokens of Gemini 2.5; -1: no limit of ours. By default the model's own.",
    )

    def identity(self) -> dict[str, Any]:
        """What shapes an answer, for the ledger: how long to wait and what it costs do not."""
        names = ("model", "system", "max_tokens", "temperature", "top_p", "thinking_level", "thinking_budget")
        return {"teacher": "gemini", "prompt": PROMPT_VERSION, **{name: getattr(self, name) for name in names}}


class GeminiTeacher:
    """Asks the service. Use from one event loop; any number of questions at a time."""

    trace_kind = "summary"

    def __init__(self, settings: Gemini, key: SecretStr | None = None) -> None:
        from google import genai
        from google.genai.types import HttpOptions, HttpRetryOptions

        self.settings = settings
        self.name = settings.model
        # Our own HTTP client, and one attempt: the library would repeat a broken request by itself, outside the limits.
        self._http = service.http_client(settings)
        options = HttpOptions(
            base_url=settings.base_url or None,
            timeout=int(settings.timeout_s * 1000),
            httpx_async_client=self._http,
            retry_options=HttpRetryOptions(attempts=1),
        )
        self._client = genai.Client(
            api_key=key.get_secret_value() if key else "none", vertexai=False, http_options=options
        )
        self._config = _config(settings)

    async def trace(self, question: Question) -> TraceOutcome:
        """One request. No exception of the library leaves this: some of them cannot cross a process."""
        from google.genai.errors import APIError

        try:
            response = await self._client.aio.models.generate_content(
                model=self.settings.model, contents=storable(question.question), config=self._config
            )
            return self._answer(response)
        except APIError as error:
            return _refusal(error)
        except TRANSPORT_ERRORS as error:
            return service.broken(self.settings, error)
        except _UNREADABLE as error:
            cost_usd = self.settings.cost_usd(None, None)
            detail = f"not a response of Gemini ({type(error).__name__})"
            return TraceOutcome(Status.TRANSIENT, detail=detail, cost_usd=cost_usd)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _answer(self, response: GenerateContentResponse) -> TraceOutcome:
        """The outcome of a response that arrived and is paid for."""
        usage = response.usage_metadata
        counts = (usage.candidates_token_count, usage.thoughts_token_count) if usage else (None, None)
        known = [count for count in map(num_tokens, counts) if count is not None]
        tokens_in, tokens_out = num_tokens(usage.prompt_token_count) if usage else None, sum(known) if known else None
        paid: dict[str, Any] = {
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "cost_usd": self.settings.cost_usd(tokens_in, tokens_out),
            "model_version": short(response.model_version or ""),
        }
        if not response.candidates:
            reason = response.prompt_feedback.block_reason if response.prompt_feedback else None
            if reason is None:
                return TraceOutcome(Status.MALFORMED, detail="no candidate", **paid)
            return TraceOutcome(Status.BLOCKED, detail=f"prompt blocked: {_name(reason)}", **paid)
        candidate = response.candidates[0]
        finish = _name(candidate.finish_reason)
        parts = (candidate.content.parts if candidate.content else None) or []
        thinking = "".join(part.text or "" for part in parts if part.thought)
        attempt = "".join(part.text or "" for part in parts if not part.thought)
        if finish == "RECITATION":
            return TraceOutcome(Status.RECITATION, finish_reason=finish, detail=f"finish reason {finish}", **paid)
        if finish in _BLOCKED:
            return TraceOutcome(Status.BLOCKED, finish_reason=finish, detail=f"finish reason {finish}", **paid)
        if finish not in ("STOP", "MAX_TOKENS"):
            detail = f"finish reason {finish or 'missing'}"
            return TraceOutcome(Status.MALFORMED, finish_reason=finish, detail=detail, **paid)
        return classified(thinking, attempt, {"STOP": "stop", "MAX_TOKENS": "length"}[finish], **paid)


def _config(settings: Gemini) -> GenerateContentConfig:
    from google.genai.types import GenerateContentConfig, ThinkingConfig, ThinkingLevel

    level = ThinkingLevel(settings.thinking_level.upper()) if settings.thinking_level else None
    return GenerateContentConfig(
        system_instruction=settings.system,
        max_output_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        thinking_config=ThinkingConfig(
            include_thoughts=True, thinking_level=level, thinking_budget=settings.thinking_budget
        ),
    )


def _refusal(error: APIError) -> TraceOutcome:
    """The outcome of a status that is no success."""
    code, items = error.code, list(error_details(error.details))
    detail = f"HTTP {code}: {short(error.message or error.status or 'no reason given')}"
    reasons = {str(item.get("reason")) for item in items}
    if code in FATAL_CODES or error.status == "FAILED_PRECONDITION" or "API_KEY_INVALID" in reasons:
        return TraceOutcome(Status.FATAL, detail=detail, **NOTHING_USED)
    if code == 429:
        if any("PerDay" in str(item.get("violations")) for item in items):
            return TraceOutcome(Status.FATAL, detail=f"{detail} (the quota of the day is used up)", **NOTHING_USED)
        return TraceOutcome(Status.RATE_LIMITED, detail=detail, retry_after_s=_wanted_pause_s(error), **NOTHING_USED)
    if is_transient(code):
        return TraceOutcome(Status.TRANSIENT, detail=detail, retry_after_s=_wanted_pause_s(error), **NOTHING_USED)
    return TraceOutcome(Status.DECLINED, detail=detail, finish_reason=REFUSED, **NOTHING_USED)


def _wanted_pause_s(error: APIError) -> float | None:
    """What the error's RetryInfo or the response's Retry-After asks for."""
    wanted = retry_info_s(error.details)
    if wanted is None and isinstance(error.response, httpx.Response):
        wanted = retry_after_s(error.response.headers)
    return wanted


def _name(value: Any) -> str:
    """The name of one of the service's enumerations, also of one that the library does not know yet."""
    return short(getattr(value, "value", value) or "")
