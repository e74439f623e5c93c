"""Vector stores, as the OpenAI API has them: a collection of the same name, and which files' texts are in it.

In the bucket `vector_stores`: a store under `<tenant>.<store>`, a file of it under `<tenant>.<store>.<file>`.
"""

from __future__ import annotations

import msgspec

from inferbus.contracts.vectors import Chunking

IN_PROGRESS, COMPLETED, CANCELLED, FAILED = "in_progress", "completed", "cancelled", "failed"
SERVER_ERROR, UNSUPPORTED_FILE, INVALID_FILE = "server_error", "unsupported_file", "invalid_file"
"""States of a file in a store, and why one failed: the OpenAI API's words."""

DAY_S = 86_400
Attribute = str | float | bool


class StoreRecord(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.store.v1"):
    """One store. `expires_days` after it was last used (0: never) nothing is found in it any more; `emptied`: since when all that was in it is gone (0: it is not)."""

    id: str
    tenant: str
    model: str
    created: float
    name: str = ""
    description: str = ""
    metadata: dict[str, str] = {}
    expires_days: int = 0
    active: float = 0.0
    key_id: str = ""
    emptied: float = 0.0


class StoreFile(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.store_file.v1"):
    """A file whose text is, or is to be, in a store. While it is `in_progress`, whoever works on it says so in `updated`;
    one that was left lying is taken up by the next who looks. `chunking` None: as the store says."""

    file_id: str
    store: str
    tenant: str
    created: float
    filename: str = ""
    status: str = IN_PROGRESS
    attributes: dict[str, Attribute] = {}
    bytes: int = 0
    chunks: int = 0
    batch: str = ""
    updated: float = 0.0
    error_code: str = ""
    error: str = ""
    chunking: Chunking | None = None


InStores = StoreRecord | StoreFile
"""What the bucket has under a key."""


def is_expired(store: StoreRecord, now: float) -> bool:
    """Say whether a store's time is over. One that was emptied does not come back."""
    return bool(store.emptied) or (bool(store.expires_days) and now > store.active + store.expires_days * DAY_S)
