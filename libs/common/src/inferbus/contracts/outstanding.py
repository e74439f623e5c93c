"""The `outstanding` bucket: what a holder of shares has of limits of days and months and has not settled yet."""

from __future__ import annotations

import msgspec


class Outstanding(msgspec.Struct, frozen=True, kw_only=True, tag="quota.outstanding.v1"):
    """One holder (an asker), written only over its own last revision, or by whoever gives back for it when it is dead.

    `until` is the end of its hold and `since` when the oldest request in it was reserved, in seconds of server time.
    `shares` is, by counter, at most what is leased and not settled. Charged to them are the requests with the tags in
    `open`, and all from `next_tag` on. `claimed_by` is who gave it back; then nothing of it is left.
    """

    until: float = 0.0
    since: float = 0.0
    next_tag: int = 0
    open: list[int] = []
    shares: dict[str, int] = {}
    claimed_by: str = ""
