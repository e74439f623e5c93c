"""Presence over a real server: silent, replaced, gone, and when it is we who were away. Times are a third of the real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from tests.connected.conftest import Connect
from tests.connected.proxy import Proxy

from inferbus.bus import Bus
from inferbus.contracts.presence import READY, Presence
from inferbus.process import presence as presence_module
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.testing import NatsServer, eventually

SILENT_S = 0.5


class Watcher:
    def __init__(self, bus: Bus) -> None:
        self.table = PresenceTable(bus, "local")
        self.lost: list[str] = []
        self.table.on_lost(lambda beat: self.lost.append(f"{beat.process}/{beat.incarnation}"))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "BEAT_S", presence_module.BEAT_S / 3)
    monkeypatch.setattr(presence_module, "_CHECK_S", presence_module._CHECK_S / 3)
    monkeypatch.setattr(presence_module, "SILENT_S", SILENT_S)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def watch(bus: Bus, stack: AsyncExitStack) -> Watcher:
    watcher = Watcher(bus)
    await watcher.table.start()
    stack.push_async_callback(watcher.table.stop)
    return watcher


async def shine(bus: Bus, process: str, incarnation: str = "i1", *, asker: str = "") -> Beacon:
    beacon = Beacon(
        bus,
        lambda: Presence(
            process=process,
            role="worker",
            incarnation=incarnation,
            region="local",
            state=READY,
            pools=["m"],
            asker=asker,
        ),
    )
    await beacon.start()
    return beacon


async def test_seen_at_once_and_gone_at_once(
    connect: Connect, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "SILENT_S", 60.0)  # it is not its silence that is noticed
    watcher = await watch(await connect("gateway"), stack)
    beacon = await shine(await connect("worker"), "w1", asker="a1")
    await eventually(lambda: watcher.table.has_asker("a1"))
    assert [beat.process for beat in watcher.table.workers("m")] == ["w1"]
    await beacon.stop()
    await eventually(lambda: watcher.lost == ["w1/i1"])


async def test_silence_is_noticed(server: NatsServer, connect: Connect, stack: AsyncExitStack) -> None:
    watcher = await watch(await connect("gateway"), stack)
    proxy = await stack.enter_async_context(Proxy(server.port))
    bus = await Bus.connect(msgspec.structs.replace(server.settings("worker"), url=proxy.url), name="frozen")
    stack.push_async_callback(bus.close)
    beacon = await shine(bus, "w1")
    stack.push_async_callback(beacon.stop)
    await eventually(lambda: "w1" in watcher.table.alive())
    proxy.freeze()
    begun = time.monotonic()
    await eventually(lambda: watcher.lost == ["w1/i1"])
    assert SILENT_S - 0.2 < time.monotonic() - begun < 8
    proxy.thaw()
    await eventually(lambda: "w1" in watcher.table.alive())
    assert watcher.lost == ["w1/i1"]


async def test_a_new_incarnation_replaces_the_old_one(
    connect: Connect, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "SILENT_S", 60.0)
    watcher = await watch(await connect("gateway"), stack)
    bus = await connect("worker")
    first = await shine(bus, "w1", "i1")
    await eventually(lambda: "w1" in watcher.table.alive())
    first._task.cancel()  # type: ignore[union-attr]  # killed: no goodbye
    await asyncio.gather(first._task, return_exceptions=True)  # type: ignore[arg-type]
    second = await shine(bus, "w1", "i2")
    stack.push_async_callback(second.stop)
    await eventually(lambda: watcher.lost == ["w1/i1"])
    assert watcher.table.alive()["w1"].incarnation == "i2"


async def test_a_server_that_was_away_kills_nobody(server: NatsServer, connect: Connect, stack: AsyncExitStack) -> None:
    """Everybody was silent for longer than the limit, because nobody could be heard."""
    watcher = await watch(await connect("gateway"), stack)
    beacon = await shine(await connect("worker"), "w1")
    stack.push_async_callback(beacon.stop)
    await eventually(lambda: "w1" in watcher.table.alive())
    await server.kill()
    begun = time.monotonic()
    await eventually(lambda: time.monotonic() - begun > SILENT_S + 0.5)
    await server.start()
    beats = watcher.table._beats["w1"][1]
    await eventually(lambda: watcher.table._beats["w1"][1] > beats + SILENT_S)
    assert watcher.lost == []


async def test_a_process_that_was_stopped_itself_judges_nobody(connect: Connect, stack: AsyncExitStack) -> None:
    """SIGSTOP, or a long garbage collection: the beats of the others wait unread in our socket."""
    watcher = await watch(await connect("gateway"), stack)
    beacon = await shine(await connect("worker"), "w1")
    stack.push_async_callback(beacon.stop)
    await eventually(lambda: "w1" in watcher.table.alive())
    time.sleep(SILENT_S + 0.3)  # noqa: ASYNC251 - the whole event loop stands still, which is the point
    beats = watcher.table._beats["w1"][1]
    await eventually(lambda: watcher.table._beats["w1"][1] > beats)
    assert watcher.lost == []
