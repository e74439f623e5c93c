"""Views: entries as operators see them, without the hashes of keys. The admin API and the command line share them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from inferbus.contracts.directory import Member
from inferbus.contracts.keys import KeyEntry

V = TypeVar("V", bound="MemberView")
ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"


class MemberView(msgspec.Struct, kw_only=True):
    """A team or a user. No `models` or `endpoints` means all, `max_tokens` 0 no bound."""

    id: str
    tenant: str
    name: str
    created: int
    disabled: bool
    lanes: list[str]
    models: list[str]
    endpoints: list[str]
    max_tokens: int
    priority: int


class OrganisationView(MemberView, kw_only=True):
    """An organisation."""

    weight: int


class KeyView(msgspec.Struct, kw_only=True):
    """A key. `state` is active, expired or revoked; until `previous_until` the secret that was rotated out holds, too.
    `key` is the key itself, in the answer that made it and nowhere else. Times are Unix seconds, 0: never."""

    id: str
    tenant: str
    name: str
    created: int
    disabled: bool
    lanes: list[str]
    team: str
    user: str
    models: list[str]
    endpoints: list[str]
    max_tokens: int
    priority: int
    expires: int
    previous_until: int
    state: str = ACTIVE
    key: str = ""


def view_of(entry: Member, type_: type[V]) -> V:
    return msgspec.convert(entry, type_, from_attributes=True)


def view_of_key(entry: KeyEntry, *, now: float, key: str = "") -> KeyView:
    """Show a key as it is at `now` (Unix seconds)."""
    view = msgspec.convert(entry, KeyView, from_attributes=True)
    view.state = REVOKED if entry.disabled else EXPIRED if 0 < entry.expires <= now else ACTIVE
    view.key = key
    return view
