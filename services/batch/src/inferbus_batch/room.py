"""Room: everything work needs, open while there are jobs. Its connections are its own, so that nothing of it is left."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from inferbus import routes
from inferbus.admission.admit import Admission
from inferbus.admission.identity import Identity
from inferbus.admission.keys import KeyRing
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.tokens import BodyEstimator
from inferbus.admission.withdrawals import Withdrawals
from inferbus.answers.asker import Asker
from inferbus.batch.job_book import JobBook
from inferbus.batch.part_book import PartBook
from inferbus.bus import Bus
from inferbus.contracts.batch import JobRecord
from inferbus.errands import Errands
from inferbus.errors import Forbidden
from inferbus.facts import Facts
from inferbus.files.book import FileBook
from inferbus.files.ports import Storage
from inferbus.ledger.prices import PriceBook
from inferbus.models import ModelRegistry
from inferbus.process.presence import PresenceTable
from inferbus.settings import BusSettings, from_env
from inferbus.telemetry.tracing import Tracing
from inferbus.vectors.door import VectorsDoor
from inferbus.worker.tenant_weights import TenantWeights
from inferbus_batch.adapters.chunk_queue import ChunkQueue
from inferbus_batch.asking import Asking
from inferbus_batch.chunk_run import ChunkDeps
from inferbus_batch.chunk_workers import ChunkWorkers, WorkerLimits
from inferbus_batch.coordinator import Coordinator
from inferbus_batch.domain.cutting import CutLimits
from inferbus_batch.domain.quiet_hours import quiet_hours_from
from inferbus_batch.fail_points import FailPoints
from inferbus_batch.finalizing import Finalizer
from inferbus_batch.groups import Groups
from inferbus_batch.job_care import CareDeps
from inferbus_batch.jobs_view import JobsView
from inferbus_batch.metrics import BatchMetrics
from inferbus_batch.planning import Planner
from inferbus_batch.settings import CHUNKS, COORDINATOR, BatchSettings
from inferbus_batch.vector_rows import VectorRows

_SUBMITTER_S = 0.5
_GATHER_S = 0.002
log = structlog.get_logger()


class RoomDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What is there whether the room is open or not. `me` is this process's incarnation."""

    settings: BatchSettings
    bus_settings: BusSettings
    jobs: JobsView
    storage: Storage
    metrics: BatchMetrics
    tracing: Tracing
    fail_points: FailPoints
    registry: CollectorRegistry
    me: str


class Room:
    """Coordinator and chunk workers at work. `asker` is who waits for their rows."""

    def __init__(self, asker: Asker, coordinator: Coordinator | None, workers: ChunkWorkers | None) -> None:
        self._asker = asker
        self._coordinator = coordinator
        self._workers = workers

    @property
    def asker(self) -> str:
        return self._asker.id

    @property
    def in_flight(self) -> int:
        return len(self._asker.exchanges)

    async def start(self) -> None:
        if self._coordinator is not None:
            await self._coordinator.start()
        if self._workers is not None:
            await self._workers.start()

    async def stop(self, grace_s: float) -> None:
        """Hand back what is not done within `grace_s`."""
        if self._coordinator is not None:
            await self._coordinator.stop()
        if self._workers is not None:
            await self._workers.stop(grace_s)
        await self._asker.stop()


def identity_of(keys: KeyRing, job: JobRecord) -> Identity:
    """Say who asks, and with which rights as they are now.

    Raises:
        Unauthenticated, Forbidden: the submitter may use the batch lane no more, or never might.
    """
    identity = keys.of_key(job.key_id) if job.key_id else keys.of_tenant(job.tenant)
    if identity.tenant != job.tenant or routes.BATCH not in identity.lanes:
        raise Forbidden("the key of this batch may not use the batch lane")
    return identity


class Submitters:
    """Who asks the rows of a job, and with which rights: not older than half a second, so that what is revoked stops."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._known: dict[tuple[str, str], Identity] = {}
        self._until = 0.0

    def identity_of(self, job: JobRecord) -> Identity:
        """Give a job's submitter. Raises as `identity_of`."""
        now = time.monotonic()
        if now >= self._until:
            self._known.clear()
            self._until = now + _SUBMITTER_S
        name = (job.tenant, job.key_id)
        identity = self._known.get(name)
        if identity is None:
            identity = self._known[name] = identity_of(self._keys, job)
        return identity


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is learned of the bus while the room is open."""

    models: ModelRegistry
    submitters: Submitters
    presence: PresenceTable
    asker: Asker
    weights: TenantWeights
    admission: Admission
    vectors: VectorsDoor


@asynccontextmanager
async def open_room(deps: RoomDeps) -> AsyncIterator[Room]:
    """Connect and learn what admission must know.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(deps.bus_settings, name=f"{deps.settings.process}-room")
        stack.push_async_callback(bus.close)
        bus.gather(_GATHER_S)
        known = await _learn(deps, bus, stack)
        queue, parts, book = ChunkQueue(bus), PartBook(bus), JobBook(bus)
        coordinator = workers = None
        if deps.settings.role != CHUNKS:
            coordinator = _coordinator(deps, bus, known, queue, parts, book)
        if deps.settings.role != COORDINATOR:
            workers = _workers(deps, bus, known, queue, parts, book)
        yield Room(known.asker, coordinator, workers)


async def _learn(deps: RoomDeps, bus: Bus, stack: AsyncExitStack) -> _Known:
    """Follow what admission must know, until the stack ends it."""
    payload_bus = await Bus.connect(deps.bus_settings, name=f"{deps.settings.process}-payloads")
    stack.push_async_callback(payload_bus.close)
    models, keys, presence = ModelRegistry(bus), KeyRing(bus, b""), PresenceTable(bus, bus.region)
    asker, errands, prices, weights = Asker(bus, presence), Errands(), PriceBook(bus), TenantWeights(bus)
    settings = from_env(QuotaSettings, "quota")
    quota = Quota(
        bus, settings, gateways=lambda: presence.processes("gateway") + presence.processes("batch"),
        price_of=prices.price_of, holder=asker.id, tags=asker.tags,
    )  # fmt: skip
    admission = Admission(
        bus, models, asker, presence, payload_bus=payload_bus, tracing=deps.tracing, quota=quota,
        withdrawals=Withdrawals(bus, Facts(bus, "batch", errands), errands, asker=asker.id),
        price_of=prices.price_of, estimator=BodyEstimator(default_completion=settings.default_completion_tokens),
    )  # fmt: skip
    stack.push_async_callback(errands.stop)
    vectors = VectorsDoor(bus, quota)
    await vectors.start()
    await asker.start()
    for learning in (presence, models, keys, prices, quota, weights):
        await learning.start()
        stack.push_async_callback(learning.stop)
    for loading in (models.loaded(), keys.loaded(), prices.loaded(), quota.loaded()):
        await loading
    return _Known(
        models=models,
        submitters=Submitters(keys),
        presence=presence,
        asker=asker,
        weights=weights,
        admission=admission,
        vectors=vectors,
    )


def _coordinator(
    deps: RoomDeps, bus: Bus, known: _Known, queue: ChunkQueue, parts: PartBook, book: JobBook
) -> Coordinator:
    settings, files = deps.settings, FileBook(bus, deps.storage)
    limits = CutLimits(
        rows=settings.chunk_rows, bytes=settings.chunk_bytes, first_rows=settings.first_chunk_rows,
        line_bytes=settings.max_line_bytes,
    )  # fmt: skip
    care = CareDeps(
        bus=bus, book=book, jobs=deps.jobs, parts=parts, files=files, storage=deps.storage, queue=queue,
        planner=Planner(deps.storage, queue, limits, max_rows=settings.max_rows),
        finalizer=Finalizer(deps.storage, parts, files), identity_of=known.submitters.identity_of, metrics=deps.metrics,
        fail_points=deps.fail_points, me=deps.me, keep_s=settings.keep_s,
    )  # fmt: skip
    return Coordinator(care, known.presence)


def _workers(
    deps: RoomDeps, bus: Bus, known: _Known, queue: ChunkQueue, parts: PartBook, book: JobBook
) -> ChunkWorkers:
    settings = deps.settings
    asking = Asking(bus, known.admission, VectorRows(bus, known.vectors), attempts=settings.row_attempts)
    chunks = ChunkDeps(
        bus=bus, storage=deps.storage, parts=parts, models=known.models, identity_of=known.submitters.identity_of,
        asking=asking, groups=Groups(bus, known.admission, asking, slots_of=known.presence.least_slots), group_rows=settings.group_rows, metrics=deps.metrics, tracing=deps.tracing,
        fail_points=deps.fail_points, rows_at_once=max(1, settings.in_flight // settings.chunk_slots),
        row_deadline_s=settings.row_deadline_s, worker=settings.process,
    )  # fmt: skip
    limits = WorkerLimits(
        slots=settings.chunk_slots,
        chunk_attempts=settings.chunk_attempts,
        chunk_deaths=settings.chunk_deaths,
        quiet=quiet_hours_from(settings.quiet_hours),
    )
    return ChunkWorkers(chunks, queue, deps.jobs, book, limits, known.weights.all)
