"""What searches count, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class SearchMetrics:
    """One per process. `running` says how many searches run."""

    def __init__(self, registry: CollectorRegistry, running: Callable[[], float]) -> None:
        self.searches = Counter(
            "inferbus_vectors_searches", "Searches by how they ended: ok, or the error's code", ["outcome"], registry=registry
        )  # fmt: skip
        self.search_s = Histogram(
            "inferbus_vectors_search_seconds", "From a search's receipt to its answer, embedding included",
            registry=registry, buckets=_BUCKETS,
        )  # fmt: skip
        gauge = Gauge("inferbus_vectors_searches_running", "Searches that run", registry=registry)
        gauge.set_function(running)
