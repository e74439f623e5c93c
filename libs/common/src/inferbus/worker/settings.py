"""What every worker has to be told. A service adds its own."""

from __future__ import annotations

import msgspec


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pool` and `runtime` say which queue it pulls, `served_name` what its usage is booked on where a request names no
    model. Times in seconds: `drain_grace_s` for what runs when it is asked to go, `old_message_s` after which a message's
    asker is asked whether it is still wanted. `batch_reserve`: slots that batches never hold, for whoever waits; -1: a
    sixteenth, at least one; 0 where a pool has nothing but batches to do.
    """

    process: str
    pool: str
    runtime: str
    served_name: str = ""
    drain_grace_s: float = 30.0
    old_message_s: float = 5.0
    batch_reserve: int = -1
