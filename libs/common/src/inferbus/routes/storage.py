"""Streams, consumers and key-value buckets that no module of this package has for itself."""

from __future__ import annotations

from inferbus.routes.accounts import KV_LEDGER, KV_PRICES, KV_TOTALS
from inferbus.routes.batch import KV_JOBS
from inferbus.routes.features import KV_FEATURE_JOBS, KV_FEATURES
from inferbus.routes.vectors import KV_COLLECTIONS, KV_VECTOR_STORES, KV_WATCH_HITS, KV_WATCHLISTS

__all__ = [
    "KV_BUCKETS", "KV_DIRECTORY", "KV_EXPIRING", "KV_FILES", "KV_IDEMPOTENCY", "KV_KEYS", "KV_LIMITS", "KV_MODELS",
    "KV_OUTSTANDING", "KV_REQUESTS", "KV_SLOTS", "KV_TURNS", "STREAM_DELTAS", "STREAM_DLQ", "STREAM_EVENTS",
    "STREAM_PAY", "STREAM_REQUEST", "STREAM_RESULTS", "SUBJECTS_DELTAS", "SUBJECTS_DLQ", "SUBJECTS_EVENTS",
    "SUBJECTS_PAY", "SUBJECTS_RESULTS", "durable_door", "durable_worker", "kv_stream", "kv_subject", "stream_infer",
]  # fmt: skip

STREAM_REQUEST, STREAM_PAY, STREAM_DLQ, STREAM_EVENTS = "REQUEST", "PAY", "DLQ", "EVENTS"
STREAM_DELTAS, STREAM_RESULTS = "DELTAS", "RESULTS"
SUBJECTS_DELTAS, SUBJECTS_RESULTS = "deltas.*.*", "results.*.*"
SUBJECTS_PAY, SUBJECTS_DLQ, SUBJECTS_EVENTS = "pay.*.*.*", "dlq.>", "events.*.*"
KV_KEYS, KV_MODELS = "keys", "models"
KV_REQUESTS, KV_IDEMPOTENCY = "requests", "idempotency"
KV_DIRECTORY, KV_LIMITS, KV_SLOTS, KV_OUTSTANDING = "directory", "limits", "slots", "outstanding"
KV_TURNS = "turns"
KV_FILES = "files"
KV_BUCKETS = (
    KV_KEYS, KV_MODELS, KV_REQUESTS, KV_IDEMPOTENCY, KV_DIRECTORY, KV_LIMITS, KV_SLOTS,
    KV_PRICES, KV_TOTALS, KV_LEDGER, KV_OUTSTANDING,
    KV_JOBS,
    KV_FILES,
    KV_TURNS,
    KV_FEATURES, KV_FEATURE_JOBS,
    KV_COLLECTIONS,
    KV_VECTOR_STORES,
    KV_WATCHLISTS, KV_WATCH_HITS,
)  # fmt: skip
KV_EXPIRING = (KV_REQUESTS, KV_IDEMPOTENCY)
"""Buckets whose keys go by themselves, as long after their last change as outcomes are kept."""


def stream_infer(region: str, runtime: str, lane: str) -> str:
    return f"INFER_{region}_{runtime}_{lane}"


def durable_worker(pool: str, bucket: int) -> str:
    return f"{pool}_{bucket}"


def durable_door(lane: str) -> str:
    return f"gateway_{lane}"


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def kv_subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"
