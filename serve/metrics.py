"""Prometheus metrics of the requests and of what budget forcing did to them.

One instance belongs to each replica of the HTTP side, which sees its requests and their reports; `serve/tally.py` adds
several up. `cluster/grafana/forcing.json` is their dashboard.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

from serve.events import Added, Report

_TOKENS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 7200)


class Metrics:
    """What has happened since this replica of the HTTP side was started."""

    def __init__(self, models: Iterable[str]) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"s1_{name}", help, ("model", *labels), registry=registry)

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"s1_{name}", help, ("model",), registry=registry)

        def histogram(name: str, help: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"s1_{name}", help, ("model",), registry=registry, buckets=tuple(buckets))

        self.requests = counter("requests", "Requests that were answered, by HTTP status.", "status")
        self.waiting = gauge("requests_waiting", "Requests that no engine has taken yet.")
        self.running = gauge("requests_running", "Requests that an engine works on.")
        self.waited = histogram("queue_seconds", "From a request's arrival until an engine took it.", _SECONDS)
        self.first = histogram("first_text_seconds", "From a streamed request's arrival to its first text.", _SECONDS)
        self.took = histogram("request_seconds", "From a request's arrival to its end.", _SECONDS)
        self.prompt = counter("prompt_tokens", "Tokens of prompts.")
        self.thinking = counter("thinking_tokens", "Tokens of thinking, forced ones included.")
        self.forced = counter("forced_tokens", "Tokens that a policy wrote.")
        self.answer = counter("answer_tokens", "Tokens that models sampled as answers.")
        self.length = histogram("thinking_length_tokens", "Tokens of thinking of one completion.", _TOKENS)
        self.ends = counter(
            "thinking_ends", "Ends of thinking: natural, or forced by budget, context or length.", "ended_by"
        )
        self.ignored = counter("ignored_ends", "Ends of thinking that a policy replaced.")
        self.unmet = counter("unmet_minimums", "Completions with less thinking than their minimum, and why.", "why")
        for model in models:  # a series that starts at 0 has a rate from its first event on
            for gauge_of in (self.waiting, self.running):
                gauge_of.labels(model)
            for counter_of in (self.prompt, self.thinking, self.forced, self.answer, self.ignored):
                counter_of.labels(model)

    def completed(self, model: str, report: Report) -> None:
        """Count one completion."""
        self.generated(model, report)
        if report.ended_by is not None:  # of a completion that was not to think there is nothing to tell
            self.length.labels(model).observe(report.thinking_tokens)
            self.ends.labels(model, report.ended_by).inc()
        self.ignored.labels(model).inc(report.rounds)
        if report.unmet is not None:
            self.unmet.labels(model, report.unmet).inc()

    def generated(self, model: str, counts: Report | Added) -> None:
        """Count the tokens of one completion, or of what there is of it."""
        self.thinking.labels(model).inc(counts.thinking_tokens)
        self.forced.labels(model).inc(counts.forced_tokens)
        self.answer.labels(model).inc(counts.answer_tokens)

    def collect(self) -> list[Metric]:
        """All of it as it stands."""
        return list(self._registry.collect())

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
