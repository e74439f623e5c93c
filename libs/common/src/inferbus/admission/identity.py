"""Identity: who asks. Made from an API key at the HTTP door, from the subject's tenant token at the bus door."""

from __future__ import annotations

import msgspec

from inferbus.routes import LANES


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant and what it may ask for: what its key, its user, its team and its organisation all allow.

    `models` are the key's own (names, or `tag:<tag>`; none: all), `within` the lists of those above it, each of which must
    allow a model too. `endpoints` are tasks (none: all); `max_tokens` bounds one answer (0: nothing does).
    """

    tenant: str
    key_id: str = ""
    lanes: tuple[str, ...] = LANES
    team: str = ""
    user: str = ""
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    max_tokens: int = 0
    priority: int = 0
    within: tuple[tuple[str, ...], ...] = ()
