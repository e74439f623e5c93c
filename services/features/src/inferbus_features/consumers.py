"""Consumers: who asks for which service, counted from requests, so that it is known whom a change of a feature concerns.

Counts are kept in the bucket `feature_jobs` and added to by compare-and-set; a process that is killed takes the last few
seconds of its own with it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import last_stored, read_page
from inferbus.codec import from_json, to_json
from inferbus.errors import InferbusError
from inferbus_features.domain.lineage import UsedBy

_EVERY_S = 5.0
_USED, _FRESH = "used_", "fresh_"
log = structlog.get_logger()


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How new what is written of a view is: the newest row's own time, and when rows were written last (Unix seconds)."""

    view: str
    event_time: float = 0.0
    written: float = 0.0
    rows: int = 0


class UsedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for one service, by tenant."""

    tenants: dict[str, UsedBy] = {}


K = TypeVar("K", UsedCounts, Freshness)


class Consumers:
    """`read` and `wrote` note; `start` has what was noted stored now and then."""

    def __init__(self, bus: Bus, now: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._now = now
        self._used: dict[tuple[str, str], UsedBy] = {}
        self._fresh: dict[str, Freshness] = {}
        self._task: asyncio.Task[None] | None = None

    def read(self, tenant: str, service: str, requests: int, rows: int) -> None:
        """Note requests."""
        key = (service, tenant)
        known = self._used.get(key) or UsedBy(service=service, tenant=tenant)
        self._used[key] = _more(
            known, UsedBy(service=service, tenant=tenant, requests=requests, rows=rows, last=self._now())
        )

    def wrote(self, view: str, rows: int, event_time: float) -> None:
        """Note rows that were written, of which the newest has a time (Unix seconds)."""
        new = Freshness(view=view, event_time=event_time, written=self._now(), rows=rows)
        self._fresh[view] = _newer(self._fresh.get(view) or Freshness(view=view), new)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_storing(), name="feature-counts")

    async def stop(self) -> None:
        """Store what is there."""
        if self._task is not None:
            self._task.cancel()
        await self._try()

    async def _keep_storing(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.store()
        except InferbusError as exc:
            log.info("feature_counts_wait", error=exc.message)

    async def store(self) -> None:
        """Add what was noted to what is stored.

        Raises:
            DependencyDown: the bus is away; what is not stored yet is kept.
        """
        used, self._used = self._used, {}
        fresh, self._fresh = self._fresh, {}
        try:
            for service in {service for service, _ in used}:
                new = {tenant: one for (name, tenant), one in used.items() if name == service}
                await self._add(_USED + service, UsedCounts, UsedCounts(), partial(_merged, new=new))
                for tenant in new:
                    del used[service, tenant]
            for view, one in list(fresh.items()):
                await self._add(_FRESH + view, Freshness, Freshness(view=view), partial(_newer, one))
                del fresh[view]
        finally:  # what was not stored is added to what came meanwhile
            for key, counts in used.items():
                self._used[key] = _more(counts, self._used[key]) if key in self._used else counts
            for view, one in fresh.items():
                self._fresh[view] = _newer(one, self._fresh[view]) if view in self._fresh else one

    async def used(self) -> dict[str, list[UsedBy]]:
        """Give who asks for what, by service."""
        found: dict[str, list[UsedBy]] = {}
        for data in await self._all(_USED):
            for one in from_json(data, UsedCounts, what="counts").tenants.values():
                found.setdefault(one.service, []).append(one)
        return {service: sorted(ones, key=lambda one: -one.requests) for service, ones in sorted(found.items())}

    async def freshness(self) -> dict[str, Freshness]:
        """Say how new each view is, as far as anything was written to it."""
        found = [from_json(data, Freshness, what="freshness") for data in await self._all(_FRESH)]
        return {one.view: one for one in found}

    async def _all(self, prefix: str) -> list[bytes]:
        subject = routes.kv_subject(routes.KV_FEATURE_JOBS, routes.tenant_key(routes.PLATFORM, "*"))
        start = routes.kv_subject(routes.KV_FEATURE_JOBS, routes.tenant_key(routes.PLATFORM, prefix))
        found, seq, left = list[bytes](), 1, 1
        while left:
            page, left = await read_page(self._bus, routes.kv_stream(routes.KV_FEATURE_JOBS), subject, seq)
            for one in page:
                seq = one.seq + 1
                if one.data and one.headers.get("Nats-Subject", "").startswith(start):
                    found.append(one.data)
            left = left if page else 0
        return found

    async def _add(self, name: str, type_: type[K], empty: K, change: Callable[[K], K]) -> None:
        """Change a record, over whichever version is there."""
        key = routes.tenant_key(routes.PLATFORM, name)
        subject, stream = routes.kv_subject(routes.KV_FEATURE_JOBS, key), routes.kv_stream(routes.KV_FEATURE_JOBS)
        while True:
            stored = await last_stored(self._bus, stream, subject)
            known = from_json(stored.data, type_, what="counts") if stored is not None and stored.data else empty
            headers = {EXPECTED: str(stored.seq if stored is not None else 0)}
            try:
                await self._bus.accept(subject, to_json(change(known)), headers, msg_id=secrets.token_hex(12))
            except WrongSequence:
                continue
            return


def _more(one: UsedBy, other: UsedBy) -> UsedBy:
    return msgspec.structs.replace(
        one, requests=one.requests + other.requests, rows=one.rows + other.rows, last=max(one.last, other.last)
    )


def _newer(one: Freshness, other: Freshness) -> Freshness:
    return msgspec.structs.replace(
        one, event_time=max(one.event_time, other.event_time), written=max(one.written, other.written),
        rows=one.rows + other.rows,
    )  # fmt: skip


def _merged(old: UsedCounts, new: dict[str, UsedBy]) -> UsedCounts:
    """Add counts by tenant."""
    tenants = dict(old.tenants)
    for tenant, one in new.items():
        tenants[tenant] = _more(tenants[tenant], one) if tenant in tenants else one
    return UsedCounts(tenants=tenants)
