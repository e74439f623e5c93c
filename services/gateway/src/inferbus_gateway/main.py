"""Composition root of the gateway."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.admission.admin_keys import AdminKeys
from inferbus.admission.admit import Admission
from inferbus.admission.keys import KeyRing
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.tokens import BodyEstimator
from inferbus.admission.withdrawals import Withdrawals
from inferbus.answers.asker import Asker
from inferbus.batch.dead_letters import DeadLetters
from inferbus.batch.job_book import JobBook
from inferbus.batch.part_book import PartBook
from inferbus.bus import Bus
from inferbus.bus.refusals import RefusalCollector
from inferbus.contracts.presence import DRAINING, READY, STARTING, Presence
from inferbus.errands import Errands
from inferbus.facts import Facts
from inferbus.files.book import FileBook
from inferbus.files.fsspec_storage import open_storage
from inferbus.files.settings import FilesSettings
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.reading import Totals
from inferbus.models import ModelRegistry
from inferbus.process import runtime
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.settings import BusSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus.telemetry.tracing import Tracing
from inferbus.topology.stream_check import StreamCheck, gateway_needs
from inferbus_gateway.admin_door import AdminDoor
from inferbus_gateway.batch_door import BatchDoor
from inferbus_gateway.budget_alerts import budget_listeners
from inferbus_gateway.bus_door import BusDoor
from inferbus_gateway.cancelling import Cancelling
from inferbus_gateway.durable import DurableRequests
from inferbus_gateway.features_door import FeaturesDoor
from inferbus_gateway.fetch_door import FetchDoor
from inferbus_gateway.http.app import build_app
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.observer import Observer
from inferbus_gateway.pools import PoolCollector
from inferbus_gateway.queue_view import QueueView
from inferbus_gateway.quota_metrics import QuotaCollector
from inferbus_gateway.server import HttpServer
from inferbus_gateway.settings import GatewaySettings
from inferbus_gateway.triton_servers import TritonServers
from inferbus_gateway.vector_stores_door import VectorStoresDoor

_DOOR_SLOTS = 1024
_LOAD_S = 5.0


async def _open_admin_door(
    settings: GatewaySettings, bus_settings: BusSettings, stack: AsyncExitStack
) -> AdminDoor | None:
    """Connect a second time, as the role that may write keys; None where this gateway has no admin API."""
    has_role = settings.admin_password or settings.admin_nkey_seed or settings.admin_nkey_seed_file
    if not has_role or not settings.admin_keys:
        return None
    pepper = settings.key_pepper.encode()
    keys = AdminKeys(settings.admin_keys, pepper)
    role = msgspec.structs.replace(
        bus_settings, user=settings.admin_user, password=settings.admin_password, nkey_seed=settings.admin_nkey_seed,
        nkey_seed_file=settings.admin_nkey_seed_file,
    )  # fmt: skip
    bus = await Bus.connect(role, name=f"{settings.process}-admin")
    stack.push_async_callback(bus.close)
    return AdminDoor(bus, keys, pepper)


def _open_batch_door(bus: Bus, stack: AsyncExitStack) -> BatchDoor:
    """Open the storage of files; nothing is asked of it before a client asks."""
    settings = from_env(FilesSettings, "files")
    storage = open_storage(settings)
    stack.push_async_callback(storage.close)
    files = FileBook(bus, storage)
    letters = DeadLetters(files, PartBook(bus))
    return BatchDoor(files=files, jobs=JobBook(bus), dead_letters=letters, settings=settings)


async def main(process: runtime.Runtime) -> None:
    telemetry = from_env(TelemetrySettings, "telemetry")
    settings = from_env(GatewaySettings, "gateway")
    bus_settings = from_env(BusSettings, "bus")
    logs.configure(settings.process, telemetry.log_level)
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(bus_settings, name=settings.process)
        stack.push_async_callback(bus.close)
        payload_bus = await Bus.connect(bus_settings, name=f"{settings.process}-payloads")
        stack.push_async_callback(payload_bus.close)
        tracing = Tracing("gateway", telemetry)
        stack.callback(tracing.close)
        registry = CollectorRegistry()
        observer = Observer(registry)
        models, keys = ModelRegistry(bus), KeyRing(bus, settings.key_pepper.encode())
        presence = PresenceTable(bus, bus.region)
        asker = Asker(bus, presence)
        errands = Errands()
        facts = Facts(bus, "gateway", errands)
        prices, quota_settings = PriceBook(bus), from_env(QuotaSettings, "quota")
        quota = Quota(
            bus, quota_settings, gateways=lambda: presence.processes("gateway"), price_of=prices.price_of,
            listeners=budget_listeners(quota_settings, facts, errands), holder=asker.id, tags=asker.tags,
        )  # fmt: skip
        admission = Admission(
            bus, models, asker, presence, payload_bus=payload_bus, tracing=tracing, hold_s=settings.hold_s,
            withdrawals=Withdrawals(bus, facts, errands, asker=asker.id), quota=quota,
            price_of=prices.price_of, estimator=BodyEstimator(default_completion=quota_settings.default_completion_tokens),
        )  # fmt: skip
        durable = DurableRequests(bus, admission, models, presence, asker=asker.id)
        registry.register(PoolCollector(asker, presence, models))
        registry.register(RefusalCollector(bus.refusals, payload_bus.refusals))
        streams = StreamCheck(bus, gateway_needs())
        registry.register(QuotaCollector(quota))

        def why_not_ready() -> str | None:
            if process.stopping.is_set():
                return "draining"
            if not bus.connected:
                return "the bus is not reachable"
            if streams.missing:
                return streams.why_not_ready
            return None if models.ready and keys.ready and quota.ready else "models, keys and limits are not loaded yet"

        door = BusDoor(bus, admission, observer, tracing, durable, max_open=_DOOR_SLOTS, identify=keys.of_tenant)
        batch = _open_batch_door(bus, stack)
        vectors = VectorStoresDoor(bus, quota, batch.files)
        cancelling = Cancelling(bus, asker, presence, door, durable, errands)
        deps = HttpDeps(
            settings=settings, authenticator=keys, admitter=admission, models=models, ready=why_not_ready,
            tracing=tracing, observer=observer, registry=registry, durable=durable,
            places=QueueView(lambda: asker.exchanges, presence, admission.bounds), canceller=cancelling,
            totals=Totals(bus), servers=TritonServers(bus, presence),
            admin=await _open_admin_door(settings, bus_settings, stack), batch=batch,
            vectors=vectors,
            features=FeaturesDoor(bus, quota),
        )  # fmt: skip
        server = HttpServer(build_app(deps).warm(), settings)
        fetch_door = FetchDoor(bus, durable, max_open=_DOOR_SLOTS)

        def describe() -> Presence:
            state = DRAINING if process.stopping.is_set() else STARTING if why_not_ready() else READY
            return Presence(
                process=settings.process, role="gateway", incarnation=process.incarnation, region=bus.region, state=state,
                in_flight=len(asker.exchanges), pid=process.pid, health_port=server.port, asker=asker.id,
            )  # fmt: skip

        beacon = Beacon(bus, describe)
        await listen_for_drain(bus, settings.process, process.stopping)
        await streams.start()
        stack.push_async_callback(streams.stop)
        for known in (presence, asker, models, keys, prices, quota):
            await known.start()
        # What waits on a shared socket or at the door comes at once, and must not be told 401 or 404 for being early.
        with suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(models.loaded(), keys.loaded(), prices.loaded(), quota.loaded()), _LOAD_S
            )
        for part in (cancelling, door, durable, fetch_door, vectors, server, beacon):
            await part.start()
        runtime.freeze_heap()
        stopping = asyncio.create_task(process.stopping.wait())
        await asyncio.wait({stopping, asyncio.create_task(server.wait())}, return_when=asyncio.FIRST_COMPLETED)
        process.stopping.set()  # a server that ended by itself ends the process
        await asyncio.gather(server.stop(), door.stop(settings.drain_s), beacon.now())
        for ended in (vectors, fetch_door, durable, asker, quota, errands, prices, keys, models, presence, beacon):
            await ended.stop()
