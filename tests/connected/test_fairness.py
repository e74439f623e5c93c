"""Buckets take turns: a flood delays the others by their turn, not by its backlog. Order and shares, never times."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.connected.conftest import Connect
from tests.connected.rig import Rig

from inferbus import routes
from inferbus.admission.administration import open_administration
from inferbus.admission.audit import Actor
from inferbus.admission.wanted import NewOrganisation, OrganisationChange
from inferbus.bus import Bus
from inferbus.contracts.directory import Organisation
from inferbus.contracts.models import Buckets, ModelEntry
from inferbus.models import ModelRegistry, apply_model
from inferbus.queue.buckets import bucket_for
from inferbus.queue.delivery import Delivery
from inferbus.testing import NatsServer, eventually
from inferbus.worker.queues import Queues
from inferbus.worker.tenant_weights import TenantWeights

CONF = Path(__file__).parents[2] / "deploy/nats/nats.conf"
SLOTS = 4
PINS = {"flood": 0, "small": 1}
TWO = Buckets(count=2, pinned=PINS)


class Bench:
    """One pool, its queue, and workers whose requests end one by one."""

    def __init__(self, server: NatsServer, admin: Bus, gateway: Bus, worker: Bus) -> None:
        self.server = server
        self.admin = admin
        self.gateway = gateway
        self.worker = worker
        self.taken: list[str] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.buckets = Buckets()
        self._published = 0

    async def apply(self, buckets: Buckets) -> None:
        self.buckets = buckets
        entry = ModelEntry(name="tiny", pool="tiny", buckets=buckets)
        await self.server.reconcile(entry)
        await apply_model(self.admin, entry)

    async def publish(self, tenant: str, count: int, *, lane: str = routes.INTERACTIVE) -> None:
        subject = routes.infer(
            region="local",
            runtime="llm",
            pool="tiny",
            lane=lane,
            bucket=bucket_for(self.buckets, tenant),
            tenant=tenant,
        )
        first = self._published
        self._published += count
        ids = range(first, first + count)
        await asyncio.gather(*(self.gateway.accept(subject, b"{}", {}, msg_id=f"{n}", hold_s=10) for n in ids))

    async def handle(self, delivery: Delivery) -> None:
        """Wait for the gate, then take a moment of work."""
        self.taken.append(routes.parse_infer(delivery.subject).tenant)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0.002)  # the work
        finally:
            self.running -= 1
        delivery.ack()

    @asynccontextmanager
    async def queues(self, weights: Mapping[str, int] | TenantWeights | None = None) -> AsyncIterator[Queues]:
        models = ModelRegistry(self.worker)
        queues = Queues(
            self.worker,
            models,
            pool="tiny",
            runtime="llm",
            handle=self.handle,
            tenant_weights=weights.all if isinstance(weights, TenantWeights) else weights and (lambda: weights),
        )
        await models.start()
        await models.loaded()
        await queues.start(SLOTS)
        try:
            yield queues
        finally:
            self.gate.set()
            await queues.end(5.0)
            await models.stop()

    async def all_taken(self, *, within_s: float = 30.0) -> None:
        await eventually(lambda: len(self.taken) >= self._published and not self.running, within_s=within_s)

    def last(self, tenant: str) -> int:
        """Give the place at which the tenant's last request was taken."""
        return max(place for place, taken in enumerate(self.taken, 1) if taken == tenant)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with NatsServer(tmp_path, CONF) as server:
        await server.reconcile(ModelEntry(name="tiny", pool="tiny"))
        buses = [await server.connect(role) for role in ("admin", "gateway", "worker")]
        yield Bench(server, *buses)
        await asyncio.gather(*(bus.close() for bus in buses))


async def test_a_flood_delays_a_small_tenant_by_its_turns_only(bench: Bench) -> None:
    await bench.apply(TWO)
    await bench.publish("flood", 300)
    async with bench.queues():
        await eventually(lambda: bench.running >= SLOTS)
        await bench.publish("small", 20)
        bench.gate.set()
        await bench.all_taken()
    assert Counter(bench.taken) == {"flood": 300, "small": 20}
    assert bench.last("small") <= SLOTS + 2 * 20 + 2 * SLOTS, "one turn each, while both wait"
    assert bench.most <= SLOTS + len(PINS)


async def test_in_one_bucket_the_small_tenant_waits_behind_the_flood(bench: Bench) -> None:
    """What buckets are for: and how long it waits is bounded by how much the flooder may have open."""
    await bench.apply(Buckets(count=2, pinned={"flood": 0, "small": 0}))
    await bench.publish("flood", 100)
    async with bench.queues():
        await eventually(lambda: bench.running >= SLOTS)
        await bench.publish("small", 5)
        bench.gate.set()
        await bench.all_taken()
    assert bench.taken.index("small") >= 100 - SLOTS


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_turns_are_by_weight(bench: Bench, elsewhere: bool) -> None:
    weights = {"small": 3}
    await bench.apply(Buckets(count=2, pinned=PINS, weights={} if elsewhere else weights))
    await bench.publish("flood", 200)
    await bench.publish("small", 90)
    async with bench.queues(weights if elsewhere else None) as queues:
        await eventually(lambda: bench.running >= SLOTS and len(queues._turns) == 2)
        bench.gate.set()
        await bench.all_taken()
    before = bench.taken[SLOTS : SLOTS + 80]
    assert 54 <= Counter(before)["small"] <= 66, "three turns to one"


async def test_an_organisations_weight_changes_the_shares_of_a_running_worker(bench: Bench) -> None:
    """Written by an administrator, read with a worker's rights; the pool itself names no weights."""
    directory = open_administration(bench.admin, b"", Actor(name="test")).directory
    await directory.create(Organisation, NewOrganisation(id="small"))
    await bench.apply(TWO)
    await bench.publish("flood", 300)
    await bench.publish("small", 200)
    weights = TenantWeights(bench.worker)
    await weights.start()
    async with bench.queues(weights) as queues:
        await eventually(lambda: bench.running >= SLOTS and len(queues._turns) == 2)
        for small, share in ((1, (34, 46)), (3, (54, 66)), (1, (34, 46))):
            await directory.update(Organisation, "small", "small", OrganisationChange(weight=small))
            await eventually(lambda w=small: [s.weight for s in queues._turns[routes.INTERACTIVE]._shares] == [1, w])
            begun = len(bench.taken)
            bench.gate.set()
            await eventually(lambda n=begun: len(bench.taken) >= n + SLOTS + 80, within_s=30)
            bench.gate.clear()
            await eventually(lambda: bench.running >= SLOTS)
            low, high = share
            assert low <= Counter(bench.taken[begun + SLOTS : begun + SLOTS + 80])["small"] <= high
        await directory.delete(Organisation, "small", "small")
        await eventually(lambda: weights.all() == {})
    await weights.stop()


async def test_nothing_is_idle_while_one_bucket_has_work(bench: Bench) -> None:
    """And with everybody away the one bucket has every slot, however little it weighs."""
    await bench.apply(Buckets(count=16, weights={"other": 100}))
    async with bench.queues():
        await bench.publish("small", 40)
        await eventually(lambda: bench.running >= SLOTS)
        assert bench.running <= SLOTS + 1
        bench.gate.set()
        await bench.all_taken()
    assert bench.taken == ["small"] * 40


async def test_two_workers_take_everything_once(bench: Bench) -> None:
    """What one believes to wait the other may have taken: it notices, and its slots go elsewhere."""
    await bench.apply(Buckets(count=4))
    tenants = [f"t{number}" for number in range(12)]
    async with bench.queues(), bench.queues():
        bench.gate.set()
        await asyncio.gather(*(bench.publish(tenant, 20) for tenant in tenants))
        await bench.all_taken()
    assert Counter(bench.taken) == dict.fromkeys(tenants, 20)


async def test_a_queue_is_split_while_it_is_flooded(bench: Bench) -> None:
    await bench.publish("flood", 200)
    async with bench.queues() as queues:
        await eventually(lambda: bench.running >= SLOTS)
        await bench.apply(TWO)
        await eventually(lambda: len(queues._intakes) == 4)
        await bench.publish("small", 20)
        bench.gate.set()
        await bench.all_taken()
    assert bench.last("small") <= SLOTS + 2 * 20 + 3 * SLOTS


async def test_turns_go_on_after_a_restart_of_the_server(bench: Bench) -> None:
    await bench.apply(TWO)
    async with bench.queues():
        bench.gate.set()
        await bench.publish("small", 5)
        await bench.all_taken()
        await bench.server.restart()
        await bench.publish("flood", 60)
        await bench.publish("small", 15)
        await eventually(lambda: {"flood", "small"} <= set(bench.taken[5:]), within_s=20)
        await eventually(
            lambda: Counter(bench.taken)["small"] >= 20 and Counter(bench.taken)["flood"] >= 60, within_s=30
        )


async def test_the_batch_lane_takes_turns_within_its_slots(bench: Bench) -> None:
    await bench.apply(TWO)
    async with bench.queues() as queues:
        await eventually(lambda: len(queues._turns) == 2)
        await bench.publish("flood", 60, lane=routes.BATCH)
        await bench.publish("small", 10, lane=routes.BATCH)
        await eventually(lambda: bench.running >= SLOTS - 1)
        assert bench.running <= SLOTS - 1 + 1, "a reserve of one, and one more of the other bucket's standing order"
        bench.gate.set()
        await bench.all_taken()
    assert bench.last("small") <= 2 * 10 + 3 * SLOTS


async def test_admission_publishes_into_a_tenants_own_bucket(server: NatsServer, connect: Connect) -> None:
    """`dev` is pinned; what the hash would say is another bucket."""
    bucket = 1 - routes.bucket_of("dev", 2)
    entry = ModelEntry(name="m", pool="m", buckets=Buckets(count=2, pinned={"dev": bucket}))
    await server.reconcile(entry)
    await apply_model(await connect("admin"), entry)
    async with AsyncExitStack() as stack:
        gateway = await Rig(server, stack).gateway()
        await gateway.admit()
        operator = await connect("operator")
        stream = routes.stream_infer("local", "llm", routes.INTERACTIVE)
        answer = await operator.request(f"$JS.API.CONSUMER.INFO.{stream}.{routes.durable_worker('m', bucket)}")
        assert msgspec.json.decode(answer.data)["num_pending"] == 1
