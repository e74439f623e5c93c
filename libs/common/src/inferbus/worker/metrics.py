"""What this worker tells Prometheus. Children of labels are made once; nothing here is touched per token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from inferbus.contracts.presence import EngineStats
from inferbus.contracts.step import Usage

_DURATION_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class WorkerMetrics:
    """Counters of finished work, and gauges read from the engine when Prometheus asks."""

    def __init__(self, registry: CollectorRegistry, pool: str) -> None:
        self._by_outcome: dict[str, Counter] = {}
        self._finished = Counter(
            "inferbus_worker_requests_total", "Attempts that ended, by outcome", ["pool", "outcome"], registry=registry
        )
        tokens = Counter(
            "inferbus_worker_tokens_total", "Tokens of finished requests", ["pool", "kind"], registry=registry
        )
        self._prompt, self._completion = tokens.labels(pool, "prompt"), tokens.labels(pool, "completion")
        self._duration = Histogram(
            "inferbus_worker_duration_seconds", "From receipt to end", ["pool"], buckets=_DURATION_S, registry=registry
        ).labels(pool)
        self._queued = Histogram(
            "inferbus_worker_queue_seconds", "From storage to receipt", ["pool"], buckets=_DURATION_S, registry=registry
        ).labels(pool)
        self.expired = Counter(
            "inferbus_worker_expired_total", "Messages whose deadline had passed", ["pool"], registry=registry
        ).labels(pool)
        self.direct_refused = Counter(
            "inferbus_worker_direct_refused_total",
            "Direct requests refused for want of a slot",
            ["pool"],
            registry=registry,
        ).labels(pool)
        self.restarts = Gauge("inferbus_worker_engine_restarts", "Engine restarts", ["pool"], registry=registry).labels(
            pool
        )
        self._pool = pool

    def observe(self, outcome: str, usage: Usage, duration_s: float, queued_s: float, *, count: int = 1) -> None:
        """Count an attempt that ended, of so many requests: a group's rows are one attempt."""
        counter = self._by_outcome.get(outcome)
        if counter is None:
            counter = self._by_outcome[outcome] = self._finished.labels(self._pool, outcome)
        counter.inc(count)
        self._prompt.inc(usage.prompt_tokens)
        self._completion.inc(usage.completion_tokens)
        self._duration.observe(duration_s)
        self._queued.observe(queued_s)


class EngineCollector(Collector):
    """Reads the engine's figures and the queue's length at scrape time."""

    def __init__(self, pool: str, stats: Callable[[], EngineStats], pending: Callable[[], int]) -> None:
        self._pool = pool
        self._stats = stats
        self._pending = pending

    def collect(self) -> Iterable[GaugeMetricFamily]:
        stats = self._stats()
        for name, text, value in (
            ("running", "Requests in the engine's batch", stats.running),
            ("waiting", "Requests waiting inside the engine", stats.waiting),
            ("kv_cache_usage", "KV cache in use, 0 to 1", stats.kv_cache_usage),
            ("queue_pending", "Messages waiting in the pool's queue", self._pending()),
        ):
            family = GaugeMetricFamily(f"inferbus_worker_{name}", text, labels=["pool"])
            family.add_metric([self._pool], value)
            yield family
