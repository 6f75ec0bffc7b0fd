"""What a client is told when its request cannot be answered."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from serve.calls import DeadlinePassed
from serve.engine import EngineLost
from serve.protocol import BadRequest
from serve.responses import error

GONE = 499  # the status that is counted when a client went away
RETRY_AFTER_S = 2  # a place in the queue is free again
REPLACED_AFTER_S = 10  # Serve has seen that a replica is lost: requests wait for the next one

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Failure:
    """Status, body and headers of the response."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=lambda: {})


class Refused(Exception):
    """The request goes no further."""

    def __init__(self, status: int, message: str, param: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.failure = Failure(status, error(status, message, param=param), headers)


def failure(cause: Exception) -> Failure:
    """What is told of `cause`. What nobody expected is logged."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
    from starlette.requests import ClientDisconnect

    if isinstance(cause, Refused):
        return cause.failure
    if isinstance(cause, ClientDisconnect):  # while it sent its body: nobody reads this
        return Failure(GONE, error(GONE, "the client went away"))
    if isinstance(cause, BadRequest):
        return Failure(400, error(400, str(cause), param=cause.param))
    if isinstance(cause, BackPressureError):
        message = f"too many requests are waiting; try again in {RETRY_AFTER_S} s"
        return Failure(429, error(429, message), {"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(cause, DeadlinePassed):
        # OpenAI's clients would ask twice more, and keep the engine busy three times as long.
        return Failure(504, error(504, str(cause), param="deadline_s"), {"x-should-retry": "false"})
    if isinstance(cause, RayActorError | DeploymentUnavailableError | EngineLost):
        message = "the model's replica was lost; try again"
        return Failure(503, error(503, message), {"Retry-After": str(REPLACED_AFTER_S)})
    logger.error("a request failed", exc_info=cause)
    return Failure(500, error(500, "the request failed inside the server; its log says why"))
