"""The `keys` bucket: API keys by id. The secret itself is never stored."""

from __future__ import annotations

import msgspec


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, tag="keys.entry.v1"):
    """A key `ib-<id>-<secret>`: `mac` is HMAC-SHA256(pepper, secret), hex. `lanes` are those it may ask for.

    `models` (names, or `tag:<tag>`) and `endpoints` (tasks) it may use, all of them where there are none; `max_tokens` of
    one answer and `priority`, 0 for none said. Times are Unix seconds: it is worthless from `expires` on (0: never), and
    until `previous_until` the secret that was rotated out is as good as the new one.
    """

    id: str
    tenant: str
    mac: str
    name: str = ""
    created: int = 0
    disabled: bool = False
    lanes: tuple[str, ...] = ("interactive", "batch")
    team: str = ""
    user: str = ""
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    max_tokens: int = 0
    priority: int = 0
    expires: int = 0
    previous_mac: str = ""
    previous_until: int = 0
