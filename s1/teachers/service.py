"""What every paid service has in common: model, key, price, bounds; and how its answers are counted.

Tokens of an outcome are None where nobody knows them: then the request is taken to have used and cost what was
expected, so that limits and cap hold. One that was not sent, or that the service refused, used none.
"""

from __future__ import annotations

import os
from typing import Any

import httpx
from pydantic import Field, SecretStr

from s1 import endpoint, extensions
from s1.config import Config
from s1.errors import UserError
from s1.teachers.limits import Limits
from s1.teachers.protocol import UNREACHED, Status, TraceOutcome
from s1.teachers.retry import Retry

FATAL_CODES = frozenset({301, 302, 307, 308, 401, 402, 403, 404, 405, 410})
NOTHING_USED: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}
TRANSPORT_ERRORS = (httpx.TransportError, httpx.DecodingError)
_TRANSIENT_CODES = frozenset({408, 409, 425, 499})
_DETAIL_CHARS = 300

# Options of a service that shape no answer: where it is, how long it may take, what it costs. The ledger, whose keys
# have none of them, gives the same answer for another value (`identity` of every service).
HOW = (
    *("base_url", "api_key_env", "timeout_s", "retry", "limits"),
    *("usd_per_million_input", "usd_per_million_output", "expected_input_tokens", "expected_output_tokens"),
)


class Service(Config):
    """A model behind an interface that costs money."""

    model: str = Field(default="", description="Name of the model at the service.")
    base_url: str = Field(default="", description="Address of the service.")
    api_key_env: str = Field(default="", description="Environment variable that holds the key; empty: no key.")
    system: str | None = Field(default=None, description="System prompt; by default none.")
    max_tokens: int | None = Field(default=None, ge=1, description="Limit of one response, thinking included.")
    temperature: float | None = Field(
        default=None, ge=0, description="Sampling temperature; by default the service's own."
    )
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Nucleus sampling (top-p); by default the service's own."
    )
    timeout_s: float = Field(default=1800.0, gt=0, description="Longest wait for one response.")
    retry: Retry = Field(default=Retry(), description="Retries.")
    limits: Limits = Field(default=Limits(), description="Rate limits, for one job in the whole cluster.")
    usd_per_million_input: float = Field(default=0.0, ge=0, description="Price of prompt tokens.")
    usd_per_million_output: float = Field(default=0.0, ge=0, description="Price of thinking and answer tokens.")
    expected_input_tokens: int = Field(default=200, ge=0, description="Prompt tokens of a request, for estimates.")
    expected_output_tokens: int = Field(default=5000, ge=0, description="Tokens of a response, for estimates.")

    @property
    def is_priced(self) -> bool:
        """Whether a request costs something, as far as the settings know."""
        return self.usd_per_million_input > 0 or self.usd_per_million_output > 0

    def cost_usd(self, input_tokens: int | None, output_tokens: int | None) -> float:
        """What a response costs: when the service counted no tokens at all, what is expected, so that a cap holds."""
        if input_tokens is None and output_tokens is None:
            return self.expected_usd
        prompt = (input_tokens or 0) * self.usd_per_million_input
        return (prompt + (output_tokens or 0) * self.usd_per_million_output) / 1e6

    @property
    def expected_tokens(self) -> int:
        """Tokens of a request and its response."""
        return self.expected_input_tokens + self.expected_output_tokens

    @property
    def expected_usd(self) -> float:
        """What a request is likely to cost."""
        return self.cost_usd(self.expected_input_tokens, self.expected_output_tokens)


def check(settings: Service, name: str) -> None:
    """Raise UserError when there is no model name, no usable URL or no key. Asks nobody."""
    if not settings.model:
        raise UserError(f"teacher {name} needs --{name}.model: the name that the service knows")
    if settings.base_url:
        try:
            url = httpx.URL(settings.base_url)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"{name}.base_url={settings.base_url!r}: must be a URL such as http://127.0.0.1:8000/v1")
    api_key(settings, name)


def check_reached(settings: Service, name: str) -> None:
    """Raise UserError when no connection to the service comes about. One without a URL has its own."""
    if settings.base_url:
        key = api_key(settings, name)
        place = endpoint.Endpoint(settings.base_url, key.get_secret_value() if key else None)
        endpoint.check_reached(place, f"{name}.base_url")


def check_cap(settings: Service, name: str, max_usd: float | None) -> None:
    """Raise UserError when there is a cap and no price to keep it with."""
    if max_usd is None or settings.is_priced:
        return
    prices = ("usd_per_million_input", "usd_per_million_output")
    flags = [f"--{name}.{price.replace('_', '-')}" for price in prices]
    give = f"{name}.service {' and '.join(prices)}" if extensions.is_reference(name) else " and ".join(flags)
    raise UserError(f"max_usd={max_usd:g} cannot be kept without a price of {settings.model!r}: give {give}")


def estimate(settings: Service, name: str, count: int | None) -> str:
    """What `count` questions may cost when all come to this service, in one line for `--dry-run`."""
    if not settings.is_priced:
        return f"cost of {name}: no price of {settings.model!r} is set"
    each = f"{settings.expected_input_tokens:,} + {settings.expected_output_tokens:,} tokens each"
    total = "?" if count is None else f"{count * settings.expected_usd:,.2f}"
    line = f"cost of {name}: about ${total} when all come to it and nothing is recorded ({each})"
    if settings.max_tokens is not None and count is not None:
        most = count * settings.cost_usd(settings.expected_input_tokens, settings.max_tokens)
        line += f", at most ${most:,.2f} ({settings.max_tokens:,} tokens of response)"
    return line


def api_key(settings: Service, name: str) -> SecretStr | None:
    """The key from the environment. UserError, which does not show it, when there is none or no header can carry it."""
    if not settings.api_key_env:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise UserError(f"{name}.api_key_env={settings.api_key_env!r}: this environment variable is not set; export it")
    bad = next((at for at, letter in enumerate(key, start=1) if not "!" <= letter <= "~"), None)
    if bad is not None:
        raise UserError(
            f"{name}.api_key_env={settings.api_key_env!r}: character {bad} of {len(key)} of this environment variable "
            "is a space, a line break or not ASCII (a typographic quote?), which no key contains; export it again"
        )
    return SecretStr(key)


def http_client(settings: Service, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """A client that makes no queue of its own: how many go at once is decided for the whole cluster."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        headers=headers or {}, limits=limits, timeout=httpx.Timeout(settings.timeout_s, connect=30.0)
    )


def broken(settings: Service, error: Exception) -> TraceOutcome:
    """The outcome of a request whose response did not come: what was sent is billed, as far as anybody knows."""
    detail = short(f"{type(error).__name__}: {error}")
    if isinstance(error, endpoint.UNREACHED):
        return TraceOutcome(Status.TRANSIENT, detail=detail, finish_reason=UNREACHED, **NOTHING_USED)
    return TraceOutcome(Status.TRANSIENT, detail=detail, cost_usd=settings.cost_usd(None, None))


def is_transient(code: int) -> bool:
    """Whether a status may go away: all of 5xx are the fault of the service, or of what stands before it."""
    return code in _TRANSIENT_CODES or code >= 500


def num_tokens(value: Any) -> int | None:
    """A count of tokens as a service reports it; None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def short(text: Any) -> str:
    """What a service says about a failure, in one short line that can be stored."""
    return " ".join(str(text).encode("utf-8", "replace").decode().split())[:_DETAIL_CHARS]
