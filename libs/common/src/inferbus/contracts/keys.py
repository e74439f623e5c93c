"""The `keys` bucket: API keys by id. The secret itself is never stored."""

from __future__ import annotations

import msgspec


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, tag="keys.entry.v1"):
    """A key `ib-<id>-<secret>`: `mac` is HMAC-SHA256(pepper, secret), hex. `lanes` are those it may ask for."""

    id: str
    tenant: str
    mac: str
    name: str = ""
    created: int = 0
    disabled: bool = False
    lanes: tuple[str, ...] = ("interactive", "batch")
