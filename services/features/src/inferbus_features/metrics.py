"""What the features service counts of reads, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from inferbus.contracts.features import DEFAULT, MISSING, STALE

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_MANY = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class ReadMetrics:
    """One per process. Labels are what is defined, never what a request says."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "inferbus_features_requests", "Requests by service and outcome (ok, or a code of the error table)",
            ["service", "outcome"], registry=registry,
        )  # fmt: skip
        self.rows = Counter("inferbus_features_rows", "Rows answered", ["service"], registry=registry)
        self.values = Counter(
            "inferbus_features_values", "Values that were not present: missing, stale or default, by view",
            ["service", "view", "status"], registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "inferbus_features_request_seconds", "From a request's receipt to its answer", registry=registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.read_seconds = Histogram(
            "inferbus_features_read_seconds", "One read of the store", registry=registry, buckets=_SECONDS
        )
        self.batch_rows = Histogram(
            "inferbus_features_batch_rows", "Rows read at once", registry=registry, buckets=_MANY
        )
        self.waiting = Gauge("inferbus_features_waiting", "Requests that wait to be read", registry=registry)
        self.store_down = Counter("inferbus_features_store_down", "Reads the store did not answer", registry=registry)
        self._answered: dict[str, tuple[Counter, Counter]] = {}

    def ok(self, service: str, rows: int) -> None:
        """One request was answered."""
        found = self._answered.get(service)
        if found is None:
            found = self._answered[service] = (self.requests.labels(service, "ok"), self.rows.labels(service))
        found[0].inc()
        found[1].inc(rows)

    def judged(self, service: str, view: str, status: list[str]) -> None:
        """Count what was not present in one column of a batch."""
        for name in (MISSING, STALE, DEFAULT):
            count = status.count(name)
            if count:
                self.values.labels(service, view, name).inc(count)
