"""A pool's buckets are said in `models`, and its workers follow while they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.models import Buckets, ModelEntry
from inferbus.models import ModelRegistry, apply_model
from inferbus.queue.delivery import Delivery
from inferbus.testing import NatsServer, eventually
from inferbus.worker.queues import Queues

CONF = Path(__file__).parents[2] / "deploy/nats/nats.conf"
ONE = ModelEntry(name="tiny", pool="tiny")
FOUR = ModelEntry(name="tiny", pool="tiny", buckets=Buckets(count=4))


class Taken:
    def __init__(self) -> None:
        self.tenants: list[str] = []

    async def handle(self, delivery: Delivery) -> None:
        self.tenants.append(routes.parse_infer(delivery.subject).tenant)
        delivery.ack()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, CONF) as server:
        await server.reconcile(ONE)
        yield server


async def publish(bus: Bus, tenant: str, count: int) -> None:
    subject = routes.infer(
        region="local", runtime="llm", pool="tiny", lane=routes.INTERACTIVE,
        bucket=routes.bucket_of(tenant, count), tenant=tenant,
    )  # fmt: skip
    await bus.accept(subject, b"{}", {})


async def test_new_buckets_are_pulled_without_a_restart(server: NatsServer) -> None:
    admin, gateway, worker = [await server.connect(role) for role in ("admin", "gateway", "worker")]
    models, taken = ModelRegistry(worker), Taken()
    queues = Queues(worker, models, pool="tiny", runtime="llm", handle=taken.handle)
    try:
        await models.start()
        await queues.start(8)
        await publish(gateway, "acme", 1)
        await eventually(lambda: taken.tenants == ["acme"])
        await server.reconcile(FOUR)
        await apply_model(admin, FOUR)
        tenants = [f"t{number}" for number in range(12)]
        assert len({routes.bucket_of(tenant, 4) for tenant in tenants}) == 4
        await asyncio.gather(*(publish(gateway, tenant, 4) for tenant in tenants))
        await eventually(lambda: sorted(taken.tenants[1:]) == sorted(tenants))
        assert await queues.end(5.0)
        assert queues.running == 0
    finally:
        await models.stop()
        for bus in (admin, gateway, worker):
            await bus.close()


async def test_a_pause_stops_every_bucket_and_a_resume_all_of_them(server: NatsServer) -> None:
    await server.reconcile(FOUR)
    admin, gateway, worker = [await server.connect(role) for role in ("admin", "gateway", "worker")]
    models, taken = ModelRegistry(worker), Taken()
    queues = Queues(worker, models, pool="tiny", runtime="llm", handle=taken.handle)
    try:
        await apply_model(admin, FOUR)
        await models.start()
        await queues.start(8)
        await publish(gateway, "t1", 4)
        await publish(gateway, "t2", 4)
        await eventually(lambda: len(taken.tenants) == 2)
        await queues.pause()
        await publish(gateway, "t3", 4)
        await queues.resume()
        await eventually(lambda: len(taken.tenants) == 3)
        assert await queues.end(5.0)
    finally:
        await models.stop()
        for bus in (admin, gateway, worker):
            await bus.close()
