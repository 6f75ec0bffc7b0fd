"""Who carries out the forcing for each model: asked of its engine once, in the background.

The question waits in the same queue as the requests. Who wants to know gets what is known by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

PAUSE_S = 5.0  # before an engine is asked again that did not answer

logger = logging.getLogger("ray.serve")


class Drivers:
    """`ask`: model id -> the question to one of its engines."""

    def __init__(self, ask: Mapping[str, Callable[[], Awaitable[str]]], pause_s: float = PAUSE_S) -> None:
        """Asks at once; needs a running event loop."""
        self._models, self._pause_s = list(ask), pause_s
        self._known: dict[str, str] = {}  # the same as long as the application runs
        self.asking = [asyncio.create_task(self._ask(name, question)) for name, question in ask.items()]

    def told(self) -> str | None:
        """Each model's driver, and why; None as long as one of them is not known."""
        if len(self._known) < len(self._models):
            return None
        return "; ".join(f"{name}: {self._known[name]}" for name in self._models)

    async def _ask(self, name: str, question: Callable[[], Awaitable[str]]) -> None:
        while name not in self._known:
            try:
                self._known[name] = await question()
            except Exception:
                logger.warning("the engine of %s does not say which driver it has", name, exc_info=True)
                await asyncio.sleep(self._pause_s)
