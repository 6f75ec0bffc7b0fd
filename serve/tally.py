"""One account of several replicas of the HTTP side: whichever is asked for the metrics tells those of all.

Every replica tells its metrics as they stand once a second, and what it tells replaces what it told before: nothing is
counted twice, and a tally that was lost is whole again a second later but for replicas that are gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from serve.metrics import Metrics

INTERVAL_S = 1.0
# A replica that has told nothing for so long is gone, and nothing is under way in it.
GONE_AFTER_S = 10.0

logger = logging.getLogger("ray.serve")


class Tally:
    """What a deployment of one replica runs."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, list[Metric]]] = {}

    async def tell(self, replica: str, metrics: list[Metric]) -> bytes:
        """Take the metrics of `replica`; those of all come back, as Prometheus reads them."""
        now = time.monotonic()
        self._told[replica] = now, metrics
        there = {name: now - heard < GONE_AFTER_S for name, (heard, _) in self._told.items()}
        return text(added({name: told for name, (_, told) in self._told.items()}, there))


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
    """The metrics of this replica with those of the others. `tally`: handle of the tally's deployment."""

    def __init__(self, tally: Any, metrics: Metrics) -> None:
        """Needs a running event loop."""
        from ray import serve

        self._tally, self._metrics = tally, metrics
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._telling = asyncio.create_task(self._go_on_telling())

    async def text(self) -> bytes:
        """Those of all, as Prometheus reads them."""
        return await self._tally.tell.remote(self._replica, self._metrics.collect())

    async def _go_on_telling(self) -> None:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.text()
            except (RayError, RayServeException) as error:  # it is started again, and told everything then
                logger.warning("the tally of the metrics does not answer: %s", error)
