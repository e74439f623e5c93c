"""Control messages: what an asker tells a worker, or an operator any process, on `control.<process>.<verb>`."""

from __future__ import annotations

import msgspec

CONFIRM, RESEND, STALE, CANCEL, EXPIRE, DROP = "confirm", "resend", "stale", "cancel", "expire", "drop"
"""`cancel` and `expire` stop an attempt nobody waits for any more, and have it told (contracts.facts); `drop` stops one
whose request is over, and all that was to be told of it has been.
"""

DRAIN = "drain"
TRITON = "triton"
"""A request of its own (contracts.triton), to workers that have a Triton server; an administrator's."""
MODEL = "model"
"""The same, a gateway's: what a server says of a model. Nothing is changed by it."""

VERBS = (CONFIRM, RESEND, STALE, CANCEL, EXPIRE, DROP, DRAIN)


class ControlItem(msgspec.Struct, frozen=True, array_like=True):
    """One attempt the verb is about. `from_seq` is used by `resend`: the first frame that is missing. `run` is the
    attempt's own number where it is known; 0 means whichever has the attempt number.
    """

    tag: int
    attempt: int
    from_seq: int = 0
    run: int = 0


class Control(msgspec.Struct, frozen=True, array_like=True):
    """All items of one tick, from one asker to one worker. `drain` has no asker and no items: it is about the process."""

    asker: str
    items: list[ControlItem]
