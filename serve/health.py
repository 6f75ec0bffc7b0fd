"""Which models can answer, by what Serve knows of their replicas.

A question to the replicas themselves would wait behind the requests: a busy service would look like a lost one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

TIMEOUT_S = 5.0
OK = "ok"
# Replicas whose node is about to leave, and those that a controller which was started again has yet to see, answer too.
_ANSWERING = frozenset({"RUNNING", "PENDING_MIGRATION", "RECOVERING"})

logger = logging.getLogger("ray.serve")


def state(replicas: Mapping[str, int]) -> str:
    """OK for a model with a replica that answers, else what there is; `replicas`: state -> number of replicas."""
    if any(replicas.get(name, 0) for name in _ANSWERING):
        return OK
    others = ", ".join(f"{number} {name}" for name, number in sorted(replicas.items()) if number)
    return f"no replica answers ({others or 'there is none'})"


def _serve_status() -> Any:
    from ray import serve

    return serve.status()


class Health:
    """`engines`: model id -> handle of its deployment; `status`: asks Serve's controller, and may take long."""

    def __init__(
        self, engines: Mapping[str, Any], status: Callable[[], Any] = _serve_status, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._engines, self._status, self._timeout_s = dict(engines), status, timeout_s
        self._known = dict.fromkeys(self._engines, "Serve's controller has not answered yet")
        self._asking: asyncio.Task[None] | None = None

    async def states(self) -> dict[str, str]:
        """Model id -> its state.

        When Serve's controller does not answer, as during its restart, or not in time, what it said last stands: the
        replicas go on without it. Probes at the same time share one question.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        asking = self._asking
        await asyncio.wait([asking], timeout=self._timeout_s)
        if asking.done():
            asking.result()  # raises what nobody expected
        return dict(self._known)

    async def _ask(self) -> None:
        from ray.exceptions import RayError

        try:
            applications = (await asyncio.to_thread(self._status)).applications
        except RayError as error:
            logger.warning("Serve's controller does not say how the replicas are: %s", error)
            return
        for name, engine in self._engines.items():
            application = applications.get(engine.app_name)
            deployment = application.deployments.get(engine.deployment_name) if application else None
            replicas = deployment.replica_states if deployment else {}
            self._known[name] = state(cast(Mapping[str, int], replicas))  # names, against Serve's annotation
