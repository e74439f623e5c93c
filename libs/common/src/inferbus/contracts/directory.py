"""The `directory` bucket: organisations, their teams and their users, under `org.<tenant>`, `team.<tenant>.<team>` and
`user.<tenant>.<user>`.

Entitlements written here narrow those of every key below; they never widen them. A tenant without an organisation entry is
narrowed by nothing.
"""

from __future__ import annotations

import msgspec

ORGANISATION, TEAM, USER = "org", "team", "user"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What all three have. `models`, `endpoints`, `max_tokens` and `priority` as in a key's entry; times are Unix seconds."""

    id: str
    tenant: str
    name: str = ""
    created: int = 0
    disabled: bool = False
    lanes: tuple[str, ...] = ("interactive", "batch")
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    max_tokens: int = 0
    priority: int = 0


class Organisation(Entry, frozen=True, kw_only=True, tag="directory.organisation.v1"):
    """A tenant: `id` and `tenant` are the same. `weight` (1..100): how many slots its bucket of a pool has for one of
    another's, while both wait."""

    weight: int = 1


class Team(Entry, frozen=True, kw_only=True, tag="directory.team.v1"):
    """A part of a tenant that has keys, limits and usage of its own."""


class User(Entry, frozen=True, kw_only=True, tag="directory.user.v1"):
    """A person, or a program, whom keys of a tenant are given to."""


Member = Organisation | Team | User
"""Whatever the bucket holds: the tag says which."""


ORGANISATIONS = f"{ORGANISATION}."
"""What the keys of organisations begin with."""


def organisation_key(tenant: str) -> str:
    return f"{ORGANISATION}.{tenant}"


def team_key(tenant: str, team: str) -> str:
    return f"{TEAM}.{tenant}.{team}"


def user_key(tenant: str, user: str) -> str:
    return f"{USER}.{tenant}.{user}"


def key_of(entry: Member) -> str:
    """Name an entry in the bucket."""
    match entry:
        case Organisation():
            return organisation_key(entry.tenant)
        case Team():
            return team_key(entry.tenant, entry.id)
        case User():
            return user_key(entry.tenant, entry.id)
