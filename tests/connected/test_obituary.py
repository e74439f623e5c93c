"""A process that died is gone for everybody when its supervisor saw it, not after 1.5 s of silence."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.connected.conftest import Connect
from tests.running_platform import RunningPlatform

from inferbus import routes
from inferbus.contracts.presence import GONE, READY, Presence
from inferbus.local.obituary import announce_death
from inferbus.local.processes import WORKER, ProcessSpec
from inferbus.process import presence as presence_module
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.testing import NatsServer, eventually

SPEC = ProcessSpec(name="llm-0", role=WORKER, argv=[], env={})


async def test_only_the_incarnation_that_died_is_gone(
    server: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "SILENT_S", 60.0)  # nobody is missed by its silence here
    table = PresenceTable(await connect("gateway"), "local")
    beacon = Beacon(
        await connect("worker"),
        lambda: Presence(process="llm-0", role="worker", incarnation="second", region="local", state=READY),
    )
    await table.start()
    lost: list[str] = []
    table.on_lost(lambda beat: lost.append(beat.incarnation))
    first = Presence(process="llm-0", role="worker", incarnation="first", region="local", state=READY)
    worker = await connect("worker")
    try:
        await worker.publish(routes.presence("local", "llm-0"), msgspec.json.encode(first))
        await eventually(lambda: "llm-0" in table.alive())
        await announce_death(server.settings, SPEC, "first")
        await eventually(lambda: lost == ["first"])
        await beacon.start()
        await eventually(lambda: "llm-0" in table.alive())
        assert table.alive()["llm-0"].incarnation == "second"
        assert lost == ["first"]
    finally:
        await beacon.stop()
        await table.stop()


async def test_a_bus_that_is_away_hears_nothing_and_costs_a_second(server: NatsServer) -> None:
    await server.kill()
    begun = time.monotonic()
    await announce_death(server.settings, SPEC, "first")
    assert time.monotonic() - begun < 8


async def test_the_supervisor_says_what_it_saw(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path, "--simulator") as platform:
        async with platform.bus("admin") as bus:
            beats: list[Presence] = []

            async def on_beat(message: Msg) -> None:
                beats.append(msgspec.json.decode(message.data, type=Presence))

            await bus.subscribe(routes.presence("local", "llm-0"), on_beat)
            await eventually(lambda: bool(beats))
            victim = beats[-1]
            assert victim.pid == platform.pid("llm-0")
            os.kill(victim.pid, signal.SIGKILL)
            await eventually(lambda: beats[-1].state == GONE)  # silence alone makes nobody say so
            assert beats[-1].incarnation == victim.incarnation
            await eventually(lambda: beats[-1].state == READY, within_s=30)
            assert beats[-1].incarnation not in {victim.incarnation, ""}
            await asyncio.to_thread(platform.until, lambda: platform.state.processes[2].state == READY, 30)
