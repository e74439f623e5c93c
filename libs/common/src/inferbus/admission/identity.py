"""Identity: who asks. Made from an API key at the HTTP door, from the subject's tenant token at the bus door."""

from __future__ import annotations

import msgspec

from inferbus.routes import LANES


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant and what it may ask for."""

    tenant: str
    key_id: str = ""
    lanes: tuple[str, ...] = LANES
