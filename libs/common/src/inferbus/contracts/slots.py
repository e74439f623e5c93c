"""The `slots` bucket: who holds how many of a scope's concurrent requests, and until when."""

from __future__ import annotations

import msgspec


class SlotShares(msgspec.Struct, frozen=True, kw_only=True, tag="quota.slots.v1"):
    """One scope: holder -> (slots, end of its hold in seconds of server time). Written only over the revision read."""

    holders: dict[str, tuple[int, float]] = {}
