"""Narrowing: what a key may do is what it and everything above it allow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inferbus.admission.identity import Identity
from inferbus.contracts.directory import Member
from inferbus.contracts.keys import KeyEntry

TAG = "tag:"
NOTHING = ("none",)
"""Endpoints two levels do not agree on at all. An empty tuple would mean all of them; no task has this name."""


def identity_of(entry: KeyEntry, above: Sequence[Member] = ()) -> Identity:
    """Make the identity of a key from its entry and those of its user, team and organisation."""
    levels = (entry, *above)
    return Identity(
        tenant=entry.tenant,
        key_id=entry.id,
        lanes=_lanes(levels),
        team=entry.team,
        user=entry.user,
        models=entry.models,
        endpoints=_endpoints(levels),
        max_tokens=_least(level.max_tokens for level in levels),
        priority=_least(level.priority for level in levels),
        within=tuple(level.models for level in above if level.models),
    )


def identity_of_tenant(tenant: str, organisation: Member | None) -> Identity:
    """Make the identity of a producer on the bus, who has no key: the organisation's own."""
    if organisation is None:
        return Identity(tenant=tenant)
    return Identity(
        tenant=tenant,
        lanes=organisation.lanes,
        models=organisation.models,
        endpoints=organisation.endpoints,
        max_tokens=organisation.max_tokens,
        priority=organisation.priority,
    )


def allows(patterns: tuple[str, ...], names: Iterable[str], tags: Iterable[str]) -> bool:
    """Whether a list of models (names, or `tag:<tag>`; none: all) has one of these names or tags in it."""
    return not patterns or any(name in patterns for name in names) or any(TAG + tag in patterns for tag in tags)


def _lanes(levels: Sequence[KeyEntry | Member]) -> tuple[str, ...]:
    return tuple(lane for lane in levels[0].lanes if all(lane in level.lanes for level in levels))


def _endpoints(levels: Sequence[KeyEntry | Member]) -> tuple[str, ...]:
    said = [level.endpoints for level in levels if level.endpoints]
    if not said:
        return ()
    return tuple(task for task in said[0] if all(task in tasks for tasks in said)) or NOTHING


def _least(values: Iterable[int]) -> int:
    """Give the least of those that were said; 0 means that nothing was."""
    return min((value for value in values if value), default=0)
