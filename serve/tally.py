"""One account of several replicas of the HTTP side: whichever is asked for the metrics tells those of all.

Every replica tells its metrics as they stand once a second, and what it tells replaces what it told before: nothing is
counted twice, and a tally that was lost is whole again a second later but for replicas that are gone. They are added up
when somebody asks for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from serve.metrics import Metrics

INTERVAL_S = 1.0
# A replica that has told nothing for so long is gone, and nothing is under way in it.
GONE_AFTER_S = 10.0
# And long since ended by Serve, which replaces replicas that do not answer: it never tells anything again.
FOLDED_AFTER_S = 600.0
TIMEOUT_S = 5.0  # for the tally to answer; it may be on its way to another node

logger = logging.getLogger("ray.serve")


class Tally:
    """What a deployment of one replica runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, list[Metric]]] = {}
        self._folded: list[Metric] = []  # what replicas counted that are gone for good
        self._names_folded: set[str] = set()

    async def tell(self, replica: str, metrics: list[Metric]) -> None:
        """Take the metrics of `replica`. Those of one that was silent for FOLDED_AFTER_S would be counted twice."""
        if replica in self._names_folded:
            logger.warning("replica %s tells its metrics again after it was given up; they are left out", replica)
            return
        self._told[replica] = self._clock(), metrics

    async def text(self) -> bytes:
        """Those of all, as Prometheus reads them."""
        now = self._clock()
        for name in [name for name, (heard, _) in self._told.items() if now - heard >= FOLDED_AFTER_S]:
            _, metrics = self._told.pop(name)
            self._folded = added({"": self._folded, name: metrics}, {"": False, name: False})
            self._names_folded.add(name)
        there = {name: now - heard < GONE_AFTER_S for name, (heard, _) in self._told.items()}
        told = {name: metrics for name, (_, metrics) in self._told.items()}
        return text(added({"": self._folded, **told}, {"": False, **there}))


def added(told: Mapping[str, Iterable[Metric]], there: Mapping[str, bool]) -> list[Metric]:
    """Sums over the replicas. What was counted stays when a replica is gone; what was under way went with it."""
    sums: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}
    for replica, metrics in told.items():
        for metric in metrics:
            if metric.type == "gauge" and not there[replica]:
                continue
            sums.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            series = values.setdefault(metric.name, {})
            for sample in metric.samples:
                if not sample.name.endswith("_created"):  # a time, of which there is no sum
                    key = sample.name, frozenset(sample.labels.items())
                    series[key] = series.get(key, 0.0) + sample.value
    for name, series in values.items():
        for (sample, labels), value in series.items():
            sums[name].add_sample(sample, dict(labels), value)
    return list(sums.values())


class _Told(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def text(metrics: Iterable[Metric]) -> bytes:
    """As Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(_Told(metrics))
    return generate_latest(registry)


class Account:
    """The metrics of `replica` with those of the others. `tally`: handle of the tally's deployment."""

    def __init__(self, tally: Any, metrics: Metrics, replica: str, timeout_s: float = TIMEOUT_S) -> None:
        """Needs a running event loop."""
        self._tally, self._metrics, self._replica, self._timeout_s = tally, metrics, replica, timeout_s
        self._telling = asyncio.create_task(go_on_telling(self._tell))

    async def text(self) -> bytes:
        """Those of all, as Prometheus reads them. TimeoutError when the tally does not answer, as while it restarts."""
        async with asyncio.timeout(self._timeout_s):
            await self._tell()
            return await self._tally.text.remote()

    async def _tell(self) -> None:
        await self._tally.tell.remote(self._replica, self._metrics.collect())


async def go_on_telling(tell: Callable[[], Awaitable[None]], interval_s: float = INTERVAL_S) -> None:
    """`tell` at every interval, whatever became of the last time."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    while True:
        await asyncio.sleep(interval_s)
        try:
            await tell()
        except (RayError, RayServeException) as error:  # it is started again, and told everything then
            logger.warning("the tally of the metrics does not answer: %s", error)
        except Exception:
            logger.exception("the metrics could not be told; they are told again")
