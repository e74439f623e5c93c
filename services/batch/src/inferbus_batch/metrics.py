"""What the batch service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class BatchMetrics:
    """One per process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("inferbus_batch_rows", "Rows with a committed result", ["result"], registry=registry)
        self.taken = Counter(
            "inferbus_batch_rows_taken", "Rows whose outcome an earlier worker of the chunk had left", registry=registry
        )
        self.retries = Counter("inferbus_batch_row_retries", "Rows asked again after a failure", registry=registry)
        self.wasted = Counter(
            "inferbus_batch_wasted_tokens", "Tokens of failed attempts at rows of committed parts", registry=registry
        )
        self.commits = Counter(
            "inferbus_batch_commits", "Commits of parts by how they went: accepted, or refused as a second one", ["result"],
            registry=registry,
        )  # fmt: skip
        self.chunks = Counter("inferbus_batch_chunks", "Chunks by what became of them", ["outcome"], registry=registry)
        self.chunk_s = Histogram(
            "inferbus_batch_chunk_seconds", "From a chunk's receipt to its commit", registry=registry, buckets=_BUCKETS
        )
        self.in_flight = Gauge("inferbus_batch_rows_in_flight", "Rows asked and waited for", registry=registry)
        self.jobs = Gauge("inferbus_batch_jobs", "Jobs that are not over", ["state"], registry=registry)
        self.finished = Counter("inferbus_batch_jobs_ended", "Jobs that ended, by state", ["state"], registry=registry)
