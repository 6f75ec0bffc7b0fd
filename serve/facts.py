"""What the engine of each model says of itself: asked once, in the background.

The question waits in the same queue as the requests. Who wants to know gets what is known by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from serve.events import EngineFacts

PAUSE_S = 5.0  # before an engine is asked again that did not answer

logger = logging.getLogger("ray.serve")


class Facts:
    """`ask`: model id -> the question to one of its engines."""

    def __init__(self, ask: Mapping[str, Callable[[], Awaitable[EngineFacts]]], pause_s: float = PAUSE_S) -> None:
        """Asks at once; needs a running event loop."""
        self._models, self._pause_s = list(ask), pause_s
        self._known: dict[str, EngineFacts] = {}  # the same as long as the application runs
        self.asking = [asyncio.create_task(self._ask(name, question)) for name, question in ask.items()]

    def context_tokens(self, model: str) -> int | None:
        """Tokens of prompt and completion of `model`; None as long as they are not known."""
        return self._known[model].context_tokens if model in self._known else None

    def told(self) -> dict[str, str]:
        """`driver` and `precision` of all models; empty as long as one of them is not known."""
        if len(self._known) < len(self._models):
            return {}
        driver = "; ".join(f"{name}: {self._known[name].driver}" for name in self._models)
        precisions = dict.fromkeys(self._known[name].precision for name in self._models)
        return {"driver": driver, "precision": ", ".join(precisions)}

    async def _ask(self, name: str, question: Callable[[], Awaitable[EngineFacts]]) -> None:
        while name not in self._known:
            try:
                self._known[name] = await question()
            except Exception:
                logger.warning("the engine of %s says nothing of itself", name, exc_info=True)
                await asyncio.sleep(self._pause_s)
