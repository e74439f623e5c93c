"""Control messages: what an asker tells a worker on `control.<worker>.<verb>`."""

from __future__ import annotations

import msgspec

CONFIRM, RESEND, STALE, CANCEL = "confirm", "resend", "stale", "cancel"
VERBS = (CONFIRM, RESEND, STALE, CANCEL)


class ControlItem(msgspec.Struct, frozen=True, array_like=True):
    """One attempt the verb is about. `from_seq` is used by `resend`: the first frame that is missing. `run` is the
    attempt's own number where it is known; 0 means whichever has the attempt number.
    """

    tag: int
    attempt: int
    from_seq: int = 0
    run: int = 0


class Control(msgspec.Struct, frozen=True, array_like=True):
    """All items of one tick, from one asker to one worker."""

    asker: str
    items: list[ControlItem]
