"""Rooms: indexing, searches with management, and watchlists of a process, made of what it has connected."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus.files.ports import Storage
from inferbus.queue.intake import Intake
from inferbus.telemetry.tracing import Tracing
from inferbus_vectors.adapters.bm25 import Bm25Encoder
from inferbus_vectors.adapters.bus_embedder import BusEmbedder
from inferbus_vectors.bills import Bills
from inferbus_vectors.indexing import Outside, open_indexing
from inferbus_vectors.known import Known
from inferbus_vectors.ports import VectorIndex
from inferbus_vectors.search_room import SearchRoom, SearchRoomDeps, may_live
from inferbus_vectors.settings import VectorsSettings
from inferbus_vectors.sweeping import sweep_for_ever
from inferbus_vectors.watching.room import WatchRoom, WatchRoomDeps


class RoomsDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What is there. `me` is this process's incarnation."""

    bus: Bus
    settings: VectorsSettings
    known: Known
    index: VectorIndex
    storage: Storage
    tracing: Tracing
    registry: CollectorRegistry
    me: str


class Rooms:
    """`open` them when the engine is there, then `close`."""

    def __init__(
        self, index: VectorIndex, settings: VectorsSettings, intake: Intake, search: SearchRoom, watching: WatchRoom
    ) -> None:
        self._index = index
        self._settings = settings
        self._intake = intake
        self._search = search
        self._watching = watching
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Messages and searches that are worked on."""
        return self._intake.running + self._search.running

    async def open(self) -> None:
        await self._intake.start()
        await self._search.open()
        await self._watching.open()
        self._sweeping = asyncio.create_task(sweep_for_ever(self._index, self._settings), name="sweeping")

    async def close(self) -> None:
        """Take no more, and let what runs come to its end."""
        await self._search.close()
        await self._watching.close()
        await self._intake.drain(self._settings.drain_s)

    def stop(self) -> None:
        """End what goes on by itself."""
        if self._sweeping is not None:
            self._sweeping.cancel()


async def build_rooms(deps: RoomsDeps, stack: AsyncExitStack) -> Rooms:
    """Put them together; the stack ends what is begun here. Watchlists are known when this returns: nothing is indexed
    before."""
    known, settings = deps.known, deps.settings
    outside = Outside(deps.index, BusEmbedder(known.admission, known.payers), Bm25Encoder())
    bills = Bills(known.usage, deps.me)
    watching = WatchRoom(
        WatchRoomDeps(
            bus=deps.bus, view=known.view, index=outside.index, embedder=outside.embedder, payers=known.payers,
            registry=deps.registry, drain_s=settings.drain_s,
        )
    )  # fmt: skip
    await watching.learn()
    intake = open_indexing(deps.bus, known, outside, bills, settings, stack, deps.registry, watching.matcher)
    search = SearchRoom(
        SearchRoomDeps(
            bus=deps.bus, settings=settings, view=known.view, index=outside.index, embedder=outside.embedder,
            sparse=outside.sparse, admission=known.admission, models=known.models, payers=known.payers, bills=bills,
            storage=deps.storage, tracing=deps.tracing, registry=deps.registry, me=deps.me,
            may_live=lambda owner: may_live(known.presence, owner),
        )
    )  # fmt: skip
    rooms = Rooms(deps.index, settings, intake, search, watching)
    stack.callback(rooms.stop)
    return rooms
