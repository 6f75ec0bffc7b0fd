"""How long to wait before asking a service again: pure, bounded, jittered."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Mapping

from pydantic import Field

from s1.config import Config


class Retry(Config):
    """Bounds of asking again."""

    attempts: int = Field(default=6, ge=1, description="Requests for one question, the first one included.")
    first_pause_s: float = Field(default=1.0, gt=0, description="Longest pause after the first failure; doubles.")
    longest_pause_s: float = Field(default=120.0, gt=0, description="No pause is longer, whatever the service asks.")

    def pause_s(self, attempt: int, retry_after_s: float | None, draw: random.Random) -> float:
        """Pause after failed attempt number `attempt` (from 1): what the service asks for, else a random one."""
        if retry_after_s is not None:
            # A little more than asked, so that a crowd does not come back in the same moment.
            return min(retry_after_s * (1 + 0.1 * draw.random()), self.longest_pause_s)
        return min(self.first_pause_s * 2 ** (attempt - 1), self.longest_pause_s) * (0.5 + 0.5 * draw.random())


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
        except ValueError:
            return None
        seconds = at - (time.time() if now_s is None else now_s)
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None
