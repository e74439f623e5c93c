"""WatchBook: lists in the bucket `watchlists`, hits in `watch_hits`; and the local copy of all lists."""

from __future__ import annotations

import structlog

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.bus.stored import read_page
from inferbus.codec import from_json, to_json
from inferbus.contracts.watchlists import WatchHit, Watchlist
from inferbus.errors import Conflict, InvalidRequest, NotFound

_TRIES = 8
_HOLD_S = 10.0
log = structlog.get_logger()


class WatchBook:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def put(self, watchlist: Watchlist) -> Watchlist:
        """Write a list, over the one of its name."""
        key = routes.tenant_key(watchlist.tenant, watchlist.name)
        for _ in range(_TRIES):
            held = await revisions.read(self._bus, routes.KV_WATCHLISTS, key)
            if await revisions.write(self._bus, routes.KV_WATCHLISTS, key, to_json(watchlist), held.revision):
                return watchlist
        raise Conflict(f"the watchlist `{watchlist.name}` is being changed by others", param="name")

    async def get(self, tenant: str, name: str) -> Watchlist:
        """Raises NotFound where there is none of this name."""
        held = await revisions.read(self._bus, routes.KV_WATCHLISTS, routes.tenant_key(tenant, routes.token_safe(name)))
        if held.data is None:
            raise NotFound(f"there is no watchlist `{name[:80]}`", param="name")
        return from_json(held.data, Watchlist, what=name)

    async def of_tenant(self, tenant: str) -> list[Watchlist]:
        found = await revisions.read_all(self._bus, routes.KV_WATCHLISTS, routes.tenant_key(tenant, ""))
        return sorted((from_json(data, Watchlist, what=tenant) for data in found), key=lambda one: one.name)

    async def forget(self, watchlist: Watchlist) -> None:
        """Remove a list; its hits stay for as long as hits do."""
        key = routes.tenant_key(watchlist.tenant, watchlist.name)
        for _ in range(_TRIES):
            held = await revisions.read(self._bus, routes.KV_WATCHLISTS, key)
            if held.data is None or await revisions.write(self._bus, routes.KV_WATCHLISTS, key, None, held.revision):
                return
        raise Conflict(f"the watchlist `{watchlist.name}` is being changed by others", param="name")

    async def note(self, hit: WatchHit) -> bool:
        """Keep a hit and tell of it; False where the pair was found before. Either way it has been told."""
        key = routes.watch_hit_key(hit.tenant, hit.watchlist, hit.id)
        data = to_json(hit)
        is_new = await revisions.write(self._bus, routes.KV_WATCH_HITS, key, data, 0)
        if is_new:
            subject = routes.event("vectors", routes.FACT_WATCH_HIT)
            await self._bus.accept(subject, data, {}, msg_id=f"{routes.FACT_WATCH_HIT}:{hit.id}", hold_s=_HOLD_S)
        return is_new

    async def hits(self, tenant: str, name: str, *, after: int, limit: int) -> tuple[list[WatchHit], int]:
        """Give hits after a place, and the place to go on after (0: there is no more)."""
        subject = routes.kv_subject(routes.KV_WATCH_HITS, routes.watch_hit_key(tenant, routes.token_safe(name), "*"))
        stream = routes.kv_stream(routes.KV_WATCH_HITS)
        page, pending = await read_page(self._bus, stream, subject, after + 1)
        found = page[:limit]
        hits = [from_json(one.data, WatchHit, what=name) for one in found if one.data]
        more = pending > 0 or len(page) > limit
        return hits, found[-1].seq if found and more else 0


class WatchView(LocalCopy):
    """All lists there are."""

    def __init__(self, bus: Bus) -> None:
        self._lists: dict[str, Watchlist] = {}
        super().__init__(bus, routes.KV_WATCHLISTS)

    def of(self, tenant: str) -> list[Watchlist]:
        return [one for one in self._lists.values() if one.tenant == tenant]

    def _on_change(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._lists.pop(key, None)
            return
        try:
            self._lists[key] = from_json(value, Watchlist, what=key)
        except InvalidRequest as exc:  # what was known of it stays
            log.error("watchlist_unreadable", key=key, error=exc.message)
