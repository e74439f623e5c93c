"""What this worker tells Prometheus. Nothing here is touched per token, and what every request counts are plain numbers until
Prometheus asks: its own are locked and checked at every step, which took as long as the log line does.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from inferbus.contracts.presence import EngineStats
from inferbus.contracts.step import Usage

_DURATION_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Times:
    """A histogram of seconds."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(_DURATION_S) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_DURATION_S, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, text: str, pool: str, created: float) -> HistogramMetricFamily:
        bounds = [*map(floatToGoString, _DURATION_S), "+Inf"]
        family = HistogramMetricFamily(name, text, labels=["pool"])
        family.add_metric([pool], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        family.add_sample(f"{name}_created", {"pool": pool}, created)
        return family


class _Finished(Collector):
    """Attempts that ended, and what they took."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._created = time.time()
        self.outcomes: Tally[str] = Tally()
        self.prompt_tokens = self.completion_tokens = 0
        self.duration, self.queued = _Times(), _Times()

    def collect(self) -> Iterable[Metric]:
        finished = CounterMetricFamily(
            "inferbus_worker_requests", "Attempts that ended, by outcome", labels=["pool", "outcome"]
        )
        for outcome, count in self.outcomes.items():
            finished.add_metric([self._pool, outcome], count, created=self._created)
        yield finished
        tokens = CounterMetricFamily("inferbus_worker_tokens", "Tokens of finished requests", labels=["pool", "kind"])
        for kind, count in (("prompt", self.prompt_tokens), ("completion", self.completion_tokens)):
            tokens.add_metric([self._pool, kind], count, created=self._created)
        yield tokens
        for times, what, text in (
            (self.duration, "duration", "From receipt to end"),
            (self.queued, "queue", "From storage to receipt"),
        ):
            yield times.family(f"inferbus_worker_{what}_seconds", text, self._pool, self._created)


class WorkerMetrics:
    """Counters of finished work, and gauges read from the engine when Prometheus asks."""

    def __init__(self, registry: CollectorRegistry, pool: str) -> None:
        self._finished = _Finished(pool)
        registry.register(self._finished)
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

    def observe(self, outcome: str, usage: Usage, duration_s: float, queued_s: float, *, count: int = 1) -> None:
        """Count an attempt that ended, of so many requests: a group's rows are one attempt."""
        finished = self._finished
        finished.outcomes[outcome] += count
        finished.prompt_tokens += usage.prompt_tokens
        finished.completion_tokens += usage.completion_tokens
        finished.duration.observe(duration_s)
        finished.queued.observe(queued_s)


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
