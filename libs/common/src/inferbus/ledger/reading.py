"""Reading: totals by tenant, team, key, model and day; the events themselves; and both compared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import date

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import read_page
from inferbus.contracts.usage import Figures, Total, UsageEvent
from inferbus.errors import InvalidRequest
from inferbus.ledger.rows import day_of, empty_row, events_of, key_of_row, row_key
from inferbus.ledger.totaling import place_of

DIMENSIONS = ("org", "team", "key", "model", "day")
_FIELDS = {"org": "tenant", "team": "team", "key": "key_id", "model": "model", "day": "day"}


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What to add up: rows of these (empty: of all), days from `first` to `last` inclusive, by these dimensions."""

    org: str = ""
    team: str = ""
    key: str = ""
    model: str = ""
    first: str = ""
    last: str = ""
    by: tuple[str, ...] = ("day", "model")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One sum. Dimensions it is not by are empty."""

    org: str = ""
    team: str = ""
    key: str = ""
    model: str = ""
    day: str = ""
    figures: Figures


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A row whose total is not the sum of its events."""

    row: Total
    recounted: Figures


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a recount found. `waiting` events were not in the totals yet, `too_old` rows have lost events to age."""

    events: int
    rows: int
    waiting: int
    too_old: int
    differences: list[Difference]


def check_query(query: Query) -> Query:
    """Refuse what cannot be asked.

    Raises:
        InvalidRequest: the message names the field.
    """
    if unknown := set(query.by) - set(DIMENSIONS):
        raise InvalidRequest(f"unknown {sorted(unknown)}; by is any of {', '.join(DIMENSIONS)}", param="by")
    if query.org and not routes.is_tenant(query.org):
        raise InvalidRequest(f"{query.org!r} is no organisation's name", param="org")
    for field, value in (("from", query.first), ("to", query.last)):
        if value and not _is_day(value):
            raise InvalidRequest(f"{field} is {value!r}, a day is written 2026-11-22", param=field)
    return query


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def sum_up(rows: Sequence[Total], query: Query) -> list[Line]:
    """Add up the rows that match, by the query's dimensions, in their order."""
    sums: dict[tuple[str, ...], Figures] = {}
    for row in rows:
        if _matches(row, query):
            key = tuple(getattr(row, _FIELDS[name]) for name in query.by)
            sums[key] = sums.get(key, Figures()) + row.figures
    return [Line(figures=figures, **dict(zip(query.by, key, strict=True))) for key, figures in sorted(sums.items())]


def _matches(row: Total, query: Query) -> bool:
    wanted = ((query.org, row.tenant), (query.team, row.team), (query.key, row.key_id), (query.model, row.model))
    return (
        all(not name or name == value for name, value in wanted)
        and (not query.first or row.day >= query.first)
        and (not query.last or row.day <= query.last)
    )


async def read_totals(bus: Bus, tenant: str = "") -> list[Total]:
    """Read every row, or one tenant's.

    Raises:
        DependencyDown: the bus does not answer.
    """
    subject = routes.kv_subject(routes.KV_TOTALS, f"{tenant}.>" if tenant else ">")
    rows: list[Total] = []
    seq, left = 1, 1
    while left:
        stored, left = await read_page(bus, routes.kv_stream(routes.KV_TOTALS), subject, seq)
        if not stored:
            break
        rows += [msgspec.json.decode(one.data, type=Total) for one in stored]
        seq = stored[-1].seq + 1
    return rows


class Totals:
    """The rows of one organisation, read when they are asked for."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def rows(self, tenant: str) -> list[Total]:
        """Read every row of a tenant.

        Raises:
            DependencyDown: the bus does not answer.
        """
        return await read_totals(self._bus, tenant)


async def read_events(bus: Bus, tenant: str = "") -> AsyncIterator[list[tuple[int, UsageEvent]]]:
    """Read every event with its sequence, a page at a time.

    Raises:
        DependencyDown: the bus does not answer.
    """
    subject = routes.usage_filter(tenant or "*")
    seq, left = 1, 1
    while left:
        stored, left = await read_page(bus, routes.STREAM_USAGE, subject, seq)
        if not stored:
            return
        yield events_of(stored)
        seq = stored[-1].seq + 1


async def verify(bus: Bus) -> Verdict:
    """Count every event again and compare with the totals. It may run while both are being written.

    Raises:
        DependencyDown: the bus does not answer.
    """
    place = (await place_of(bus)).upto
    rows = {key_of_row(row): row for row in await read_totals(bus)}
    recounted: dict[str, Figures] = {}
    unknown: dict[str, UsageEvent] = {}
    count = waiting = first_seq = 0
    first_day = ""
    async for page in read_events(bus):
        for seq, event in page:
            first_seq, first_day = first_seq or seq, first_day or day_of(event.at)
            key = row_key(event)
            row = rows.get(key)
            count += 1
            if seq > max(place, row.upto if row is not None else 0):
                waiting += 1
                continue
            recounted[key] = recounted.get(key, Figures()) + event.figures
            unknown.setdefault(key, event)
    too_old = {key for key, row in rows.items() if first_seq > 1 and row.day <= first_day}
    differences = [
        Difference(row=row, recounted=recounted.get(key, Figures()))
        for key, row in rows.items()
        if key not in too_old and recounted.get(key, Figures()) != row.figures
    ]
    differences += [
        Difference(row=empty_row(unknown[key]), recounted=figures)
        for key, figures in recounted.items()
        if key not in rows and figures
    ]
    return Verdict(events=count, rows=len(rows), waiting=waiting, too_old=len(too_old), differences=differences)
