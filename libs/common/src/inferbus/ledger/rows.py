"""Rows of the totals: which row an event belongs to, and what adding it makes of the row. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec
import structlog

from inferbus.contracts.usage import Figures, Total, UsageEvent
from inferbus.routes import token_safe
from inferbus.stored import Stored

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


def add(row: Total, events: Iterable[tuple[int, UsageEvent]]) -> Total:
    """Add what is not in a row yet. `events` come with their sequences, in order; what the row has is passed over."""
    figures, upto = row.figures, row.upto
    for seq, event in events:
        if seq > upto:
            figures, upto = figures + event.figures, seq
    return row if upto == row.upto else msgspec.structs.replace(row, figures=figures, upto=upto)


def events_of(stored: Iterable[Stored]) -> list[tuple[int, UsageEvent]]:
    """Read events. What cannot be read is no event of ours: it is named in the log and left out."""
    found: list[tuple[int, UsageEvent]] = []
    for one in stored:
        try:
            found.append((one.seq, msgspec.json.decode(one.data, type=UsageEvent)))
        except msgspec.DecodeError as exc:
            log.error("usage_event_unreadable", seq=one.seq, error=str(exc))
    return found


def by_row(events: Iterable[tuple[int, UsageEvent]]) -> dict[str, list[tuple[int, UsageEvent]]]:
    """Group events by their rows; order is kept."""
    groups: dict[str, list[tuple[int, UsageEvent]]] = {}
    for seq, event in events:
        groups.setdefault(row_key(event), []).append((seq, event))
    return groups


def summed(rows: Iterable[Total]) -> Figures:
    return sum((row.figures for row in rows), Figures())
