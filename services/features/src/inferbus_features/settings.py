"""The features service's settings (section FEATURES: `INFERBUS_FEATURES_ROLE` and so on)."""

from __future__ import annotations

import msgspec

READS, WRITES, BOTH = "reads", "writes", "both"


class FeaturesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this process does, of which store, and how much at once. Times in seconds."""

    process: str = "features-0"
    """Stable name of this process on the bus."""
    role: str = BOTH
    """reads, writes or both. A write of many rows takes longer than a read may wait: apart where both are many."""
    state: str = ""
    """Folder for the registry's copy and, with SQLite, the store itself; empty: a temporary one."""

    store: str = "sqlite"
    """sqlite or redis."""
    redis: str = "127.0.0.1:6379"
    """host:port[,password=...,ssl=true], as Feast reads it; several hosts make a cluster."""
    redis_timeout_s: float = 0.5
    """How long one call may take: this process does nothing else meanwhile."""

    batch_rows: int = 128
    """Rows that are read at once, of all requests together."""
    batch_requests: int = 64
    window_s: float = 0.002
    """How long a batch may wait for more at most; it only does where more are to be expected."""
    max_waiting: int = 4096
    """Requests waiting here; a further one is refused."""
    max_waiting_per_tenant: int = 2048
    max_rows: int = 2000
    """Rows of one request."""
    max_values: int = 500_000
    """Rows times features of one request."""
    deadline_s: float = 5.0
    """How long a request that names no deadline waits."""
    drain_s: float = 5.0
