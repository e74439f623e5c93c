"""A server that comes up without its streams (a wrong encryption key): nobody is ready, and nothing is made anew."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.models import apply_model
from inferbus.testing import NatsServer, eventually
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import Topology, reconcile
from inferbus.topology.stream_check import StreamCheck, gateway_needs, worker_needs
from inferbus.topology.stream_memory import StreamMemory, StreamsLost

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
MODEL = ModelEntry(name="m", pool="m")
KEY = "INFERBUS_TEST_STORE_KEY"
_WITHIN_S = 20.0


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NatsServer]:
    """A server whose store is encrypted, with a key from the environment."""
    text = CONFIG.read_text()
    encrypted = text.replace("jetstream {\n", f"jetstream {{\n    cipher: chachapoly\n    key: ${KEY}\n", 1)
    assert encrypted != text
    config = tmp_path / "encrypted.conf"
    config.write_text(encrypted)
    monkeypatch.setenv(KEY, "rightkey")
    async with NatsServer(tmp_path, config) as server:
        yield server


async def streams_of(bus: Bus) -> int:
    answer = await bus.request("$JS.API.INFO", timeout_s=10.0)
    return int(msgspec.json.decode(answer.data)["streams"])


async def work_is_there(server: NatsServer) -> None:
    """Store one message, to be found again."""
    gateway = await server.connect("gateway")
    work = routes.infer(region="local", runtime="llm", pool="m", lane="interactive", bucket=0, tenant="dev")
    await gateway.request(work, b"{}", timeout_s=10.0)
    await gateway.close()


@contextlib.asynccontextmanager
async def running(server: NatsServer, settings: TopologySettings) -> AsyncIterator[tuple[Topology, Bus]]:
    bus = await server.connect("operator")
    topology, stopping = Topology(bus, settings, CollectorRegistry()), asyncio.Event()
    task = asyncio.create_task(topology.run(stopping))
    try:
        yield topology, bus
    finally:
        stopping.set()
        await task
        await bus.close()


@contextlib.asynccontextmanager
async def checking(server: NatsServer, role: str, needs: dict[str, str]) -> AsyncIterator[StreamCheck]:
    bus = await server.connect(role)
    check = StreamCheck(bus, needs)
    await check.start()
    try:
        yield check
    finally:
        await check.stop()
        await bus.close()


async def test_a_wrong_key_makes_nobody_ready_and_nothing_anew(server: NatsServer, tmp_path: Path) -> None:
    settings = TopologySettings(known_streams=str(tmp_path / "known.json"))
    needs = worker_needs(region="local", runtime="llm", pool="m")
    async with running(server, settings) as (topology, operator):
        await eventually(lambda: topology.why_not_ready() is None, within_s=_WITHIN_S)
        await apply_model(operator, MODEL)
        async with checking(server, "gateway", gateway_needs()) as gateway, checking(server, "worker", needs) as worker:
            await eventually(lambda: not worker.missing, within_s=_WITHIN_S)
            assert gateway.why_not_ready is None
            await work_is_there(server)
            there = await streams_of(operator)

            os.environ[KEY] = "wrongkey"
            await server.restart()
            await eventually(lambda: bool(gateway.missing and worker.missing), within_s=_WITHIN_S)
            assert "stream REQUEST" in (gateway.why_not_ready or "")
            assert "queue m_0" in (worker.why_not_ready or "")
            await eventually(lambda: "are gone" in (topology.why_not_ready() or ""), within_s=_WITHIN_S)
            assert await streams_of(operator) == 0

            os.environ[KEY] = "rightkey"
            await server.restart()
            await eventually(lambda: not gateway.missing and not worker.missing, within_s=_WITHIN_S)
            await eventually(lambda: topology.why_not_ready() is None, within_s=_WITHIN_S)
            assert await streams_of(operator) == there
            info = await operator.request(
                f"$JS.API.STREAM.INFO.{routes.stream_infer('local', 'llm', 'interactive')}", timeout_s=10.0
            )
            assert msgspec.json.decode(info.data)["state"]["messages"] == 1


async def test_a_topology_process_that_starts_meanwhile_remembers(server: NatsServer, tmp_path: Path) -> None:
    settings = TopologySettings(known_streams=str(tmp_path / "known.json"))
    async with running(server, settings) as (topology, _):
        await eventually(topology.reconciled.is_set, within_s=_WITHIN_S)
    os.environ[KEY] = "wrongkey"
    await server.restart()
    async with running(server, settings) as (topology, bus):
        await eventually(lambda: "are gone" in (topology.why_not_ready() or ""), within_s=_WITHIN_S)
        assert await streams_of(bus) == 0
    async with running(server, msgspec.structs.replace(settings, create="always")) as (topology, bus):
        await eventually(lambda: topology.why_not_ready() is None, within_s=_WITHIN_S)
        assert await streams_of(bus) > 0


async def test_never_makes_nothing(server: NatsServer) -> None:
    async with running(server, TopologySettings(create="never")) as (topology, bus):
        await eventually(lambda: "TOPOLOGY_CREATE=never" in (topology.why_not_ready() or ""), within_s=_WITHIN_S)
        assert await streams_of(bus) == 0


async def test_one_that_is_lost_keeps_others_from_being_made(server: NatsServer, tmp_path: Path) -> None:
    memory = StreamMemory("auto", tmp_path / "known.json")
    bus = await server.connect("operator")
    try:
        await reconcile(bus, TopologySettings(), [], memory)
        there = await streams_of(bus)
        await bus.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_REQUEST}", timeout_s=10.0)
        with pytest.raises(StreamsLost, match=r"gone: REQUEST\."):
            await reconcile(bus, TopologySettings(), [MODEL], memory)
        assert await streams_of(bus) == there - 1
    finally:
        await bus.close()
