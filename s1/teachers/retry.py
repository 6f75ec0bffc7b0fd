"""How long to wait before asking a service again: pure, bounded, jittered."""

from __future__ import annotations

import email.utils
import math
import random
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from s1.config import Config

_DURATION = re.compile(r"(\d+(?:\.\d+)?)s")
_RETRY_INFO = "google.rpc.RetryInfo"


class Retry(Config):
    """Bounds of asking again."""

    attempts: int = Field(default=6, ge=1, description="Tries per question, including the first.")
    first_pause_s: float = Field(
        default=1.0, gt=0, description="Longest pause after the first failure; doubles with every further one."
    )
    longest_pause_s: float = Field(
        default=120.0,
        gt=0,
        description="Longest pause of our own; pauses that the service asks for are limited by give_up_after_s.",
    )

    def pause_s(self, attempt: int, retry_after_s: float | None, draw: random.Random, give_up_after_s: float) -> float:
        """Pause after failed attempt number `attempt` (from 1): what the service asks for, as long as the job has that
        patience, else a random one.
        """
        if retry_after_s is not None:
            # A little more than asked, so that a crowd does not come back in the same moment.
            return min(retry_after_s * (1 + 0.1 * draw.random()), give_up_after_s)
        doubled = self.first_pause_s * 2.0 ** min(attempt - 1, 60)
        return min(doubled, self.longest_pause_s) * (0.5 + 0.5 * draw.random())


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as a date; None without a usable one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        seconds = at - (time.time() if now_s is None else now_s)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def retry_info_s(details: Any) -> float | None:
    """Seconds that a `google.rpc.RetryInfo` in the details of an error asks for; None without one."""
    for item in error_details(details):
        found = _DURATION.fullmatch(str(item.get("retryDelay", ""))) if _RETRY_INFO in str(item.get("@type")) else None
        if found:
            return float(found[1])
    return None


def error_details(details: Any) -> Iterator[Mapping[str, Any]]:
    """The typed details of one of Google's errors: `error.details` of its JSON."""
    error = details.get("error", details) if isinstance(details, Mapping) else None
    items = error.get("details") if isinstance(error, Mapping) else None
    yield from (item for item in items or () if isinstance(item, Mapping)) if isinstance(items, list) else ()
