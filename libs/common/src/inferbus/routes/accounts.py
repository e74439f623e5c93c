"""What is written down and counted: facts, usage, audit, and the counters of quota."""

from __future__ import annotations

import zlib

import msgspec

from inferbus.routes.names import PLATFORM, token_safe

__all__ = [
    "FACT_BUDGET_THRESHOLD", "FACT_PREDICTION", "FACT_REQUEST_CANCELLED", "KV_LEDGER", "KV_PRICES", "KV_TOTALS",
    "QUOTA_WANTED_ALL", "STREAM_AUDIT", "STREAM_QUOTA", "STREAM_QUOTA_LONG", "STREAM_USAGE", "SUBJECTS_AUDIT", "SUBJECTS_QUOTA",
    "SUBJECTS_QUOTA_LONG", "SUBJECTS_USAGE", "QuotaSubject", "audit", "event", "parse_quota", "quota", "quota_freed", "quota_wanted", "slots_key",
    "spent_of", "turn_key", "usage", "usage_filter",
]  # fmt: skip

FACT_REQUEST_CANCELLED = "request_cancelled"
FACT_BUDGET_THRESHOLD = "budget_threshold"
FACT_PREDICTION = "prediction_logged"


def event(service: str, fact: str) -> str:
    return f"events.{service}.{fact}"


def usage(tenant: str, pool: str) -> str:
    return f"usage.{tenant}.{pool}"


def usage_filter(tenant: str = "*") -> str:
    return f"usage.{tenant}.*"


STREAM_USAGE, SUBJECTS_USAGE = "USAGE", "usage.*.*"
KV_PRICES, KV_TOTALS, KV_LEDGER = "prices", "totals", "ledger"


def audit(tenant: str, fact: str) -> str:
    return f"audit.{tenant or PLATFORM}.{fact}"


STREAM_AUDIT, SUBJECTS_AUDIT = "AUDIT", "audit.*.*"


STREAM_QUOTA, STREAM_QUOTA_LONG = "QUOTA", "QUOTA_LONG"
SUBJECTS_QUOTA, SUBJECTS_QUOTA_LONG = ("quota.minute.*.*.*",), ("quota.day.*.*.*", "quota.month.*.*.*")


def quota(span: str, tenant: str, what: str, window: int) -> str:
    """A counter of one window; `span` is minute, day or month, and leads to the stream that keeps it long enough."""
    return f"quota.{span}.{tenant}.{token_safe(what)}.{window}"


def spent_of(counter: str) -> str:
    """The counter of what was settled, beside the one of what was granted."""
    head, window = counter.rsplit(".", 1)
    return f"{head}-spent.{window}"


QUOTA_WANTED_ALL = "quota.wanted.*"


def quota_wanted(tenant: str) -> str:
    return f"quota.wanted.{tenant}"


def quota_freed(holder: str) -> str:
    return f"quota.freed.{holder}"


class QuotaSubject(msgspec.Struct, frozen=True):
    span: str
    tenant: str
    what: str
    window: int


def parse_quota(subject: str) -> QuotaSubject:
    _, span, tenant, what, window = subject.split(".")
    return QuotaSubject(span, tenant, what, int(window))


def slots_key(tenant: str, what: str) -> str:
    """A key of the bucket `slots`."""
    return f"{tenant}.{token_safe(what)}"


def turn_key(server: str, model: str) -> str:
    """A key of the bucket `turns`; a model's name may have any characters."""
    return f"{server}.{token_safe(model)}-{zlib.crc32(model.encode()):08x}"
