"""AdminDoor: who may change what is admitted, and over which connection.

The gateway's own role may not write keys. This connection is of role `admin`; only administrators' requests use it
(docs/adr/0012-admin.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inferbus.admission.admin_keys import Administrator, AdminKeys
from inferbus.admission.administration import Administration, open_administration
from inferbus.admission.audit import Actor
from inferbus.admission.replays import Replays
from inferbus.bus import Bus

ACTOR = "x-inferbus-actor"
_MAX_ACTOR = 80


class AdminSession(msgspec.Struct, frozen=True, kw_only=True):
    """One administrator's request."""

    admin: Administrator
    books: Administration
    replays: Replays
    bus: Bus
    idempotency_key: str


class AdminDoor:
    """Opens the books for those who have an admin key."""

    def __init__(self, bus: Bus, keys: AdminKeys, pepper: bytes) -> None:
        self._bus = bus
        self._keys = keys
        self._pepper = pepper
        self._replays = Replays(bus)

    def open(self, headers: Mapping[str, str], request_id: str) -> AdminSession:
        """Let an administrator in.

        Raises:
            Unauthenticated: no admin key of ours.
        """
        admin = self._keys.authenticate(headers.get("authorization"))
        claimed = headers.get(ACTOR, "")[:_MAX_ACTOR]
        name = f"admin:{admin.name}" + (f"/{claimed}" if claimed.isprintable() and claimed else "")
        books = open_administration(self._bus, self._pepper, Actor(name=name, request_id=request_id))
        key = headers.get("idempotency-key", "")
        return AdminSession(admin=admin, books=books, replays=self._replays, bus=self._bus, idempotency_key=key)
