"""SearchRoom: searches, management of collections and what takes its time, made of what a process has connected."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Admission
from inferbus.bus import Bus
from inferbus.files.book import FileBook
from inferbus.files.ports import Storage
from inferbus.models import ModelRegistry
from inferbus.process.presence import PresenceTable
from inferbus.telemetry.tracing import Tracing
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.backup_desk import BackupDesk
from inferbus_vectors.bills import Bills
from inferbus_vectors.caretaker import CareDeps, Caretaker
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.collection_desk import CollectionDesk
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.content_desk import ContentDesk
from inferbus_vectors.manage_door import Desks, ManageDoor
from inferbus_vectors.moving import Moving, MovingDeps
from inferbus_vectors.payers import Payers
from inferbus_vectors.places import Places
from inferbus_vectors.ports import Embedder, SparseEncoder, VectorIndex
from inferbus_vectors.reindex_desk import ReindexDesk
from inferbus_vectors.reindexer import ReindexDeps
from inferbus_vectors.reranking import BusReranker
from inferbus_vectors.search_door import SearchDoor, SearchDoorDeps
from inferbus_vectors.search_metrics import SearchMetrics
from inferbus_vectors.searching import SearchDeps, Searching
from inferbus_vectors.settings import VectorsSettings


class SearchRoomDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What is there. `me` is this process's incarnation, `may_live` says of others' whether they may be alive."""

    bus: Bus
    settings: VectorsSettings
    view: CollectionsView
    index: VectorIndex
    embedder: Embedder
    sparse: SparseEncoder
    admission: Admission
    models: ModelRegistry
    payers: Payers
    bills: Bills
    storage: Storage
    tracing: Tracing
    registry: CollectorRegistry
    me: str
    may_live: Callable[[str], bool]


class SearchRoom:
    """`open` it, then `close`. `running` searches are in it."""

    def __init__(self, deps: SearchRoomDeps) -> None:
        settings = deps.settings
        self._places = Places(settings.searches, settings.searches_per_tenant)
        book = CollectionBook(deps.bus)
        self._search = SearchDoor(
            SearchDoorDeps(
                bus=deps.bus, view=deps.view, book=book, searching=_searching(deps), payers=deps.payers, places=self._places,
                bills=deps.bills, metrics=SearchMetrics(deps.registry, lambda: self._places.taken),
                tracing=deps.tracing, deadline_s=settings.search_deadline_s,
            )
        )  # fmt: skip
        self._manage = ManageDoor(deps.bus, deps.payers, _desks(deps, book))
        self._caretaker = Caretaker(_care(deps, book))
        self._drain_s = settings.drain_s

    @property
    def running(self) -> int:
        return self._places.taken

    async def open(self) -> None:
        await self._search.open()
        await self._manage.open()
        await self._caretaker.start()

    async def close(self) -> None:
        await self._manage.close(self._drain_s)
        await self._search.close(self._drain_s)
        await self._caretaker.stop()


def _searching(deps: SearchRoomDeps) -> Searching:
    reranker = BusReranker(deps.admission, deps.models, deps.payers, deps.embedder)
    return Searching(SearchDeps(index=deps.index, embedder=deps.embedder, sparse=deps.sparse, reranker=reranker))


def _desks(deps: SearchRoomDeps, book: CollectionBook) -> Desks:
    collections = CollectionDesk(deps.bus, book, deps.index, deps.embedder)
    return Desks(
        collections,
        ContentDesk(deps.bus, book, deps.index, settle_s=deps.settings.settle_s),
        ReindexDesk(book, deps.index, collections),
        BackupDesk(book, FileBook(deps.bus, deps.storage), deps.index, deps.sparse),
    )


def _care(deps: SearchRoomDeps, book: CollectionBook) -> CareDeps:
    moving = Moving(MovingDeps(index=deps.index, embedder=deps.embedder, sparse=deps.sparse, splitter=Splitter()))
    return CareDeps(
        view=deps.view, book=book, index=deps.index, may_live=deps.may_live, sweep_every_s=deps.settings.sweep_every_s,
        reindex=ReindexDeps(book=book, index=deps.index, moving=moving, me=deps.me, settle_s=deps.settings.settle_s),
    )  # fmt: skip


def may_live(presence: PresenceTable, owner: str) -> bool:
    """Whether a process lives, as far as one can know: nobody is taken for dead before all were heard."""
    lives = any(beat.incarnation == owner for beat in presence.alive().values())
    return lives or not presence.settled
