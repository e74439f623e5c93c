"""Rows of the totals: which row an event belongs to, and what adding it makes of the row. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from inferbus.bus.stored import Stored
from inferbus.contracts.usage import FIGURES, Figures, Total, UsageEvent, events_in
from inferbus.routes import token_safe

_NONE = "="
"""Stands for an empty team or key; no name has it after `token_safe`."""
DAY_S = 86_400
log = structlog.get_logger()


def day_of(at: float) -> str:
    """Give the UTC date of a Unix time."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def row_key(event: UsageEvent) -> str:
    """Name the row of an event in the bucket."""
    return key_of_row(empty_row(event))


def key_of_row(row: Total) -> str:
    """Name a row: its tenant and day first, so that one tenant's are one filter."""
    return ".".join((row.tenant, row.day, *(token_safe(name) or _NONE for name in (row.team, row.key_id, row.model))))


def empty_row(event: UsageEvent) -> Total:
    """Give the row of an event, without anything in it."""
    return Total(tenant=event.tenant, team=event.team, key_id=event.key_id, model=event.model, day=day_of(event.at))


def add(row: Total, events: Sequence[tuple[int, UsageEvent]]) -> Total:
    """Add what is not in a row yet. `events` come with their sequences, in order; what the row has is passed over."""
    new = [event for seq, event in events if seq > row.upto]
    if not new:
        return row
    figures = Figures(**{name: sum([getattr(event, name) for event in new]) for name in FIGURES})
    return msgspec.structs.replace(row, figures=row.figures + figures, upto=events[-1][0])


def events_of(stored: Iterable[Stored]) -> list[tuple[int, UsageEvent]]:
    """Read events; those of one message have its sequence. What cannot be read is no event of ours: it is named in the log
    and left out."""
    found: list[tuple[int, UsageEvent]] = []
    for one in stored:
        try:
            found += [(one.seq, event) for event in events_in(one.data)]
        except msgspec.DecodeError as exc:
            log.error("usage_event_unreadable", seq=one.seq, error=str(exc))
    return found


def by_row(events: Iterable[tuple[int, UsageEvent]]) -> dict[str, list[tuple[int, UsageEvent]]]:
    """Group events by their rows; order is kept."""
    groups: dict[tuple[object, ...], list[tuple[int, UsageEvent]]] = {}
    for seq, event in events:  # the row's name is the dear part: once for each, not for every event
        alike = (event.tenant, event.team, event.key_id, event.model, event.at // DAY_S)
        groups.setdefault(alike, []).append((seq, event))
    named: dict[str, list[tuple[int, UsageEvent]]] = {}
    for found in groups.values():
        named.setdefault(row_key(found[0][1]), []).extend(found)
    return {key: sorted(found, key=lambda one: one[0]) for key, found in named.items()}


def summed(rows: Iterable[Total]) -> Figures:
    return sum((row.figures for row in rows), Figures())
