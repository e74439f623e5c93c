"""Names as they may stand in a subject, and what stands where a tenant would."""

from __future__ import annotations

import re
import zlib

__all__ = [
    "ADMIN", "BATCH", "EVERYTHING", "INTERACTIVE", "LANES", "PLATFORM", "bucket_of", "is_request_id", "is_tenant", "token_safe",
]  # fmt: skip

EVERYTHING = ">"
"""Every subject of a stream: the server need not compare."""
LANES = ("interactive", "batch")
INTERACTIVE, BATCH = LANES

PLATFORM, ADMIN = "PLATFORM", "ADMIN"
"""Stand where a tenant would: in what belongs to none, and in what the admin API keeps. No tenant's name has capitals."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_TENANT = re.compile(r"[a-z0-9_-]{1,64}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def token_safe(name: str) -> str:
    """Turn any name into one subject token: characters other than letters, digits, `_` and `-` become `_`."""
    return _UNSAFE.sub("_", name)


def is_tenant(name: str) -> bool:
    return _TENANT.fullmatch(name) is not None


def is_request_id(name: str) -> bool:
    return _REQUEST_ID.fullmatch(name) is not None


def bucket_of(key: str, count: int) -> int:
    """Give the bucket of a tenant (or prefix) among `count`: stable across processes and versions."""
    return zlib.crc32(key.encode()) % count if count > 1 else 0
