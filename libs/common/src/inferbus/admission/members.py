"""Members: the `directory` bucket as a local copy, and what it says about a key."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.watch import KvWatch
from inferbus.contracts.directory import Member, organisation_key, team_key, user_key
from inferbus.contracts.keys import KeyEntry

log = structlog.get_logger()


class Members:
    """Organisations, teams and users. An entry that cannot be read is as good as disabled: it may have been narrowing."""

    def __init__(self, bus: Bus, on_change: Callable[[], None]) -> None:
        """`on_change` is called after every change."""
        self._changed = on_change
        self._entries: dict[str, Member | None] = {}
        self.watch = KvWatch(bus, routes.KV_DIRECTORY, self.on_entry)

    def above(self, entry: KeyEntry) -> list[Member] | None:
        """Give what lies above a key: user, team, organisation. None: one of them is disabled, so that the key is too.

        A team or user that a key names must be there; an organisation need not have an entry.
        """
        names = [organisation_key(entry.tenant)] if self.has_organisation(entry.tenant) else []
        names += [team_key(entry.tenant, entry.team)] if entry.team else []
        names += [user_key(entry.tenant, entry.user)] if entry.user else []
        found = [self._entries.get(name) for name in names]
        usable = [member for member in found if member is not None and not member.disabled]
        return usable if len(usable) == len(names) else None

    def has_organisation(self, tenant: str) -> bool:
        return organisation_key(tenant) in self._entries

    def organisation(self, tenant: str) -> Member | None:
        """Give an organisation's entry; None where it has none, is disabled or unreadable."""
        found = self._entries.get(organisation_key(tenant))
        return None if found is None or found.disabled else found

    def on_entry(self, key: str, value: bytes | None) -> None:
        """Take in what the bucket says of one key."""
        if value is None:
            self._entries.pop(key, None)
        else:
            try:
                self._entries[key] = msgspec.json.decode(value, type=Member)
            except msgspec.DecodeError as exc:
                self._entries[key] = None
                log.error("directory_entry_unreadable", key=key, error=str(exc))
        self._changed()
