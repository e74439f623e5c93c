"""WatchRoom: watchlists, their matching and the door to them, made of what a process has connected."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.payers import Payers
from inferbus_vectors.ports import Embedder, VectorIndex
from inferbus_vectors.watching.book import WatchBook, WatchView
from inferbus_vectors.watching.door import WatchDoor, WatchDoorDeps
from inferbus_vectors.watching.letters import Letters
from inferbus_vectors.watching.matcher import Matcher, MatcherDeps


class WatchRoomDeps(msgspec.Struct, frozen=True, kw_only=True):
    bus: Bus
    view: CollectionsView
    index: VectorIndex
    embedder: Embedder
    payers: Payers
    registry: CollectorRegistry
    drain_s: float


class WatchRoom:
    """`learn` first, so that nothing is indexed before the lists are known; then `open`, and `close`. `matcher` is what
    indexing shows everything to."""

    def __init__(self, deps: WatchRoomDeps) -> None:
        self._lists = WatchView(deps.bus)
        book = WatchBook(deps.bus)
        self.matcher = Matcher(
            MatcherDeps(
                index=deps.index, embedder=deps.embedder, collections=deps.view, lists=self._lists, book=book,
                registry=deps.registry,
            )
        )  # fmt: skip
        self._door = WatchDoor(
            WatchDoorDeps(
                bus=deps.bus, view=deps.view, book=book, matcher=self.matcher, letters=Letters(deps.bus),
                payers=deps.payers,
            )
        )  # fmt: skip
        self._drain_s = deps.drain_s

    async def learn(self) -> None:
        await self._lists.start()
        await self._lists.loaded()

    async def open(self) -> None:
        await self._door.open()

    async def close(self) -> None:
        await self._door.close(self._drain_s)
        await self._lists.stop()
