"""What indexing counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class IndexingMetrics:
    """One per process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.documents = Counter(
            "inferbus_vectors_documents", "Documents by what became of them", ["outcome"], registry=registry
        )
        self.chunks = Counter("inferbus_vectors_chunks", "Chunks stored", registry=registry)
        self.tokens = Counter("inferbus_vectors_embedded_tokens", "Tokens embedded to index", registry=registry)
        self.message_s = Histogram(
            "inferbus_vectors_message_seconds", "From an index message's receipt to its end", registry=registry,
            buckets=_BUCKETS,
        )  # fmt: skip
