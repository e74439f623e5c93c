"""Topology: reconciling is idempotent, a model extends what is there, and the process stops whatever it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.connected.conftest import MODEL, Connect

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.models import Buckets, ModelEntry
from inferbus.errors import DependencyDown
from inferbus.models import apply_model, remove_model
from inferbus.testing import NatsServer, eventually
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import Topology, reconcile

STREAM = routes.stream_infer("local", "llm", "interactive")
OTHER = ModelEntry(name="other", pool="other", buckets=Buckets(count=2))


def subject(pool: str, bucket: int = 0) -> str:
    return routes.infer(region="local", runtime="llm", pool=pool, lane="interactive", bucket=bucket, tenant="dev")


async def info(bus: Bus, what: str) -> dict[str, Any]:
    answer = await bus.request(f"$JS.API.{what}")
    return dict(msgspec.json.decode(answer.data))


async def names(bus: Bus) -> dict[str, list[str]]:
    """Give every stream's consumers."""
    streams = (await info(bus, "STREAM.NAMES"))["streams"]
    return {name: (await info(bus, f"CONSUMER.NAMES.{name}"))["consumers"] or [] for name in streams}


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Topology]:
    """Run topology; on leaving it must have ended soon after being asked to."""
    stopping = asyncio.Event()
    topology = Topology(bus, TopologySettings(), CollectorRegistry())
    task = asyncio.create_task(topology.run(stopping))
    try:
        yield topology
    finally:
        stopping.set()
        await asyncio.wait_for(task, 10)


async def test_reconciling_again_changes_nothing(server: NatsServer, connect: Connect) -> None:
    operator = await connect("operator")
    before, created = await names(operator), (await info(operator, f"STREAM.INFO.{STREAM}"))["created"]
    for _ in range(2):
        await server.reconcile(MODEL)
    assert await names(operator) == before
    after = await info(operator, f"STREAM.INFO.{STREAM}")
    assert after["created"] == created
    assert set(before) == {
        "REQUEST",
        "USAGE",
        "KV_prices",
        "KV_totals",
        "KV_ledger",
        "PAY",
        "DLQ",
        "AUDIT",
        "KV_directory",
        "KV_limits",
        "EVENTS",
        "QUOTA",
        "QUOTA_LONG",
        "KV_slots",
        "KV_outstanding",
        "KV_turns",
        "KV_files",
        "KV_jobs",
        "BATCH_CHUNKS",
        "BATCH_PARTS",
        "FEATURES",
        "KV_features",
        "KV_feature_jobs",
        "VECTORS",
        "KV_collections",
        "KV_vector_stores",
        "KV_watchlists",
        "KV_watch_hits",
        "KV_keys",
        "KV_models",
        "KV_requests",
        "KV_idempotency",
        "DELTAS",
        "RESULTS",
        STREAM,
        STREAM.replace("interactive", "batch"),
    }
    assert before[STREAM] == ["m_0"]


async def test_a_model_that_comes_extends_the_stream_without_making_it_anew(
    server: NatsServer, connect: Connect
) -> None:
    operator, gateway = await connect("operator"), await connect("gateway")
    await gateway.accept(subject("m"), b"kept", {}, msg_id="1")
    created = (await info(operator, f"STREAM.INFO.{STREAM}"))["created"]
    with pytest.raises(DependencyDown):
        await gateway.accept(subject("other"), b"x", {}, msg_id="2", hold_s=0.1)
    await server.reconcile(MODEL, OTHER)
    await gateway.accept(subject("other", 1), b"x", {}, msg_id="3")
    after = await info(operator, f"STREAM.INFO.{STREAM}")
    assert after["created"] == created
    assert after["state"]["messages"] == 2
    assert sorted((await names(operator))[STREAM]) == ["m_0", "other_0", "other_1"]


async def test_a_pool_that_goes_takes_nothing_new_and_keeps_what_it_has(server: NatsServer, connect: Connect) -> None:
    operator, gateway = await connect("operator"), await connect("gateway")
    await server.reconcile(MODEL, OTHER)
    await gateway.accept(subject("other"), b"waiting", {}, msg_id="1")
    await server.reconcile(MODEL)
    with pytest.raises(DependencyDown):
        await gateway.accept(subject("other"), b"x", {}, msg_id="2", hold_s=0.1)
    assert (await info(operator, f"STREAM.INFO.{STREAM}"))["state"]["messages"] == 1
    assert "other_0" in (await names(operator))[STREAM]


async def test_what_an_operator_changed_by_hand_is_put_right(server: NatsServer, connect: Connect) -> None:
    operator = await connect("operator")
    config = (await info(operator, f"STREAM.INFO.{STREAM}"))["config"]
    await operator.request(f"$JS.API.STREAM.UPDATE.{STREAM}", msgspec.json.encode(config | {"max_msgs_per_subject": 3}))
    await server.reconcile(MODEL)
    config = (await info(operator, f"STREAM.INFO.{STREAM}"))["config"]
    assert config["max_msgs_per_subject"] == MODEL.limits.max_pending_per_tenant


async def test_a_refusal_says_what_and_why(connect: Connect) -> None:
    operator = await connect("operator")
    with pytest.raises(DependencyDown, match=r"stream INFER_local_llm_interactive: .*subject"):
        await reconcile(operator, TopologySettings(), [ModelEntry(name="bad", pool="a.>.b")])


class TestProcess:
    @pytest.fixture
    async def server(self, server: NatsServer, connect: Connect) -> NatsServer:
        """A server with nothing on it: topology makes it all."""
        operator = await connect("operator")
        for stream in await names(operator):
            await operator.request(f"$JS.API.STREAM.DELETE.{stream}")
        return server

    async def test_models_are_followed_as_they_are_applied(self, server: NatsServer, connect: Connect) -> None:
        operator, admin, gateway = await connect("operator"), await connect("admin"), await connect("gateway")
        async with running(operator) as topology:
            await asyncio.wait_for(topology.reconciled.wait(), 5)
            await apply_model(admin, MODEL)
            await gateway.accept(subject("m"), b"x", {}, msg_id="1", hold_s=5)
            await apply_model(admin, OTHER)
            await gateway.accept(subject("other"), b"x", {}, msg_id="2", hold_s=5)
            await remove_model(admin, "other")

            async def refused() -> bool:
                try:
                    await gateway.accept(subject("other"), b"x", {}, msg_id="3", hold_s=0.05)
                except DependencyDown:
                    return True
                return False

            await eventually(refused)

    async def test_an_entry_that_cannot_work_stops_no_other(self, server: NatsServer, connect: Connect) -> None:
        operator, admin, gateway = await connect("operator"), await connect("admin"), await connect("gateway")
        async with running(operator) as topology:
            await asyncio.wait_for(topology.reconciled.wait(), 5)
            await admin.kv_put(routes.KV_MODELS, "bad", msgspec.json.encode(ModelEntry(name="bad", pool="a.>.b")))
            await admin.kv_put(routes.KV_MODELS, "worse", b"{")
            await apply_model(admin, MODEL)
            await gateway.accept(subject("m"), b"x", {}, msg_id="1", hold_s=5)

    async def test_what_was_lost_with_a_restart_is_made_again(self, server: NatsServer, connect: Connect) -> None:
        operator, admin, gateway = await connect("operator"), await connect("admin"), await connect("gateway")
        async with running(operator) as topology:
            await asyncio.wait_for(topology.reconciled.wait(), 5)
            await apply_model(admin, MODEL)
            await gateway.accept(subject("m"), b"x", {}, msg_id="1", hold_s=5)
            await gateway.wait_connected(5)
            await operator.request(f"$JS.API.CONSUMER.DELETE.{STREAM}.m_0")
            await server.restart()
            await operator.wait_connected(5)

            async def there() -> bool:
                return "m_0" in (await names(operator)).get(STREAM, [])

            await eventually(there)

    async def test_it_stops_while_it_waits_for_the_bus(self, server: NatsServer, connect: Connect) -> None:
        operator = await connect("operator")
        await server.kill()
        await eventually(lambda: not operator.connected)
        async with running(operator) as topology:
            await asyncio.sleep(0)
            assert not topology.reconciled.is_set()
        await server.start()
