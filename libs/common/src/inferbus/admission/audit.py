"""Audit: changes of what is admitted, each with its event in the stream AUDIT.

The event is stored first and the change is made over exactly the revision the event has as `before`. A crash in between
leaves an event whose change was not made, never a change without its event; where the writer lives to see that it was not
made, it says so with a second event.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.codec import from_json, to_json
from inferbus.contracts.audit import AdminChanged
from inferbus.errors import InvalidRequest, Overloaded

T = TypeVar("T", bound=msgspec.Struct)
_TRIES = 8
_HIDDEN = frozenset({"type", "mac", "previous_mac"})
_VOID = "change_voided"
_SHOWN_BYTES = 1024
_APART_S = 600.0
"""How far a writer's clock may be from the server's."""


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who changes something: `admin:<name of the admin key>`, `cli:<login>@<host>`, `cli:inferbus up`, or a `program`."""

    name: str
    request_id: str = ""


PROGRAM = Actor(name="program")
"""Whoever changes something through this library without saying who it is."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed: an entry of a bucket, of a tenant or (empty) of the platform. `replaces`: as a whole, so that one
    that cannot be read is in nobody's way."""

    bucket: str
    key: str
    action: str
    tenant: str = ""
    replaces: bool = False


class AuditedStore:
    """Writes entries of buckets with their audit events. One per request: it knows who asks."""

    def __init__(self, bus: Bus, actor: Actor) -> None:
        self.bus = bus
        self._actor = actor

    async def find(self, bucket: str, key: str, type_: type[T]) -> T | None:
        """Read an entry; None if there is none."""
        held = await revisions.read(self.bus, bucket, key)
        return None if held.data is None else from_json(held.data, type_, what=key)

    async def change(self, change: Change, type_: type[T], decide: Callable[[T | None], T | None]) -> T | None:
        """Replace an entry by what `decide` makes of it (None: none); nothing is written where that is the same.

        `decide` may be called again with a newer entry, where somebody else was quicker; what it raises is raised.

        Raises:
            DependencyDown: the bus is away. Overloaded: others keep changing the same entry.
        """
        for _ in range(_TRIES):
            held = await revisions.read(self.bus, change.bucket, change.key)
            before, unreadable = _read(change, held.data, type_)
            after = decide(before)
            if after == before and unreadable is None:
                return before
            event = await self._tell(change, unreadable or _shown(before), after)
            data = None if after is None else to_json(after)
            if await revisions.write(self.bus, change.bucket, change.key, data, held.revision):
                return after
            await self._store(AdminChanged(id=_new_id(), at=time.time(), actor=self._actor.name, action=_VOID,
                                           target=change.key, tenant=change.tenant, void=event.id))  # fmt: skip
        raise Overloaded(f"{change.key} is being changed by others")

    async def note(self, action: str, target: str, after: dict[str, Any]) -> None:
        """Store the event of a change that is about to be made elsewhere than in a bucket.

        Raises:
            DependencyDown: the bus is away; the change must not be made.
        """
        await self._store(AdminChanged(id=_new_id(), at=time.time(), actor=self._actor.name, action=action, target=target,
                                       request_id=self._actor.request_id, after=after))  # fmt: skip

    async def _tell(self, change: Change, before: dict[str, Any] | None, after: T | None) -> AdminChanged:
        event = AdminChanged(
            id=_new_id(),
            at=time.time(),
            actor=self._actor.name,
            action=change.action,
            target=change.key,
            tenant=change.tenant,
            request_id=self._actor.request_id,
            before=before,
            after=_shown(after),
        )
        await self._store(event)
        return event

    async def _store(self, event: AdminChanged) -> None:
        subject = routes.audit(event.tenant, event.action)
        await self.bus.accept(subject, to_json(event), {}, msg_id=event.id)


async def read_audit(bus: Bus, *, since: float = 0.0) -> list[AdminChanged]:
    """Read the changes since a time (Unix seconds), oldest first; those that were not made after all are left out."""
    found = await read_stored(bus, routes.STREAM_AUDIT, routes.SUBJECTS_AUDIT, since=max(0.0, since - _APART_S))
    events = [from_json(one.data, AdminChanged, what="audit event") for one in found]
    void = {event.void for event in events}
    return [event for event in events if event.at >= since and event.id not in void and not event.void]


def _read(change: Change, data: bytes | None, type_: type[T]) -> tuple[T | None, dict[str, Any] | None]:
    """Give the entry that is there, and what is shown of one that cannot be read and may be replaced all the same."""
    try:
        return (None if data is None else from_json(data, type_, what=change.key)), None
    except InvalidRequest:
        if not change.replaces or data is None:
            raise
        return None, {"unreadable": data[:_SHOWN_BYTES].decode(errors="replace")}


def _shown(entry: msgspec.Struct | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(entry)
    return {name: value for name, value in fields.items() if name not in _HIDDEN}


def _new_id() -> str:
    return secrets.token_hex(12)
