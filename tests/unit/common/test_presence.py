"""PresenceTable: who is taken for dead, when, and what about our own absence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.unit.common.fakes import FakeBus, gateway, worker

from inferbus import routes
from inferbus.contracts.presence import DRAINING, GONE, READY, Presence
from inferbus.process import presence as presence_module
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.testing import eventually


class Side:
    def __init__(self) -> None:
        self.bus = FakeBus()
        self.table = PresenceTable(self.bus, "local")  # type: ignore[arg-type]  # a port in memory
        self.lost: list[str] = []
        self.table.on_lost(lambda beat: self.lost.append(beat.incarnation))

    async def hear(self, beat: Presence) -> None:
        await self.bus.deliver(routes.presence(beat.region, beat.process), msgspec.json.encode(beat))


@pytest.fixture
async def side(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Side]:
    monkeypatch.setattr(presence_module, "SILENT_S", 0.06)
    monkeypatch.setattr(presence_module, "_CHECK_S", 0.02)
    side = Side()
    await side.table.start()
    yield side
    await side.table.stop()


async def test_silence_is_noticed_once(side: Side) -> None:
    await side.hear(worker("w1"))
    assert set(side.table.alive()) == {"w1"}
    await eventually(lambda: side.lost == ["i1"])
    assert side.table.alive() == {}


async def test_a_restarted_process_is_lost_and_there_at_once(side: Side) -> None:
    await side.hear(worker("w1", "old"))
    await side.hear(worker("w1", "new"))
    assert side.lost == ["old"]
    assert side.table.alive()["w1"].incarnation == "new"


async def test_an_asker_is_known_to_be_over_when_it_says_so_or_is_replaced(side: Side) -> None:
    def beat(process: str, asker: str, incarnation: str = "i1", state: str = READY) -> Presence:
        return msgspec.structs.replace(gateway(asker), process=process, incarnation=incarnation, state=state)

    await side.hear(beat("gw-1", "a1"))
    await side.hear(beat("gw-2", "a2"))
    assert not side.table.has_ended("a1")
    await side.hear(beat("gw-1", "a1", state=GONE))
    await side.hear(beat("gw-2", "a3", "i2"))
    assert side.table.has_ended("a1")
    assert side.table.has_ended("a2")
    assert not side.table.has_ended("a3")
    assert not side.table.has_ended("never heard of")
    await side.hear(beat("gw-2", "a2"))
    assert not side.table.has_ended("a2"), "it lives, under a name that another has too"


async def test_two_processes_of_one_name_do_not_take_turns(side: Side) -> None:
    """Replicas that were given the same name: every beat would hand all work of the other back."""
    for _ in range(20):
        await side.hear(worker("w1", "first"))
        await side.hear(worker("w1", "second"))
        await side.hear(worker("w1", "third"))
    assert side.lost == ["first", "second"]
    assert side.table.alive()["w1"].incarnation == "third"
    await side.hear(msgspec.structs.replace(worker("w1", "third"), state=GONE))
    await side.hear(worker("w1", "first"))
    assert side.table.alive()["w1"].incarnation == "first", "the name is free again"


async def test_both_gateways_of_one_name_are_known_as_askers(side: Side) -> None:
    """Else workers would drop the requests of all but one replica after three seconds."""
    second = msgspec.structs.replace(gateway("a2"), incarnation="g2")
    for _ in range(3):
        await side.hear(gateway("a1"))
        await side.hear(second)
    assert side.table.has_asker("a1")
    assert side.table.has_asker("a2")
    await eventually(lambda: not side.table.has_asker("a1") and not side.table.has_asker("a2"))
    await side.hear(second)
    await side.hear(msgspec.structs.replace(second, state=GONE))
    assert not side.table.has_asker("a2")
    assert side.table._askers == {}


async def test_replaced_incarnations_do_not_pile_up(side: Side) -> None:
    for n in range(presence_module._MAX_REPLACED + 10):
        await side.hear(worker("w1", f"i{n}"))
    assert len(side.table._replaced) == presence_module._MAX_REPLACED


async def test_one_that_says_it_goes_is_gone_at_once(side: Side) -> None:
    await side.hear(msgspec.structs.replace(worker("w1"), state=GONE))
    assert side.lost == []
    await side.hear(worker("w1"))
    await side.hear(msgspec.structs.replace(worker("w1"), state=GONE))
    assert side.lost == ["i1"]
    assert side.table.alive() == {}


async def test_while_we_are_away_nobody_dies(side: Side) -> None:
    await side.hear(worker("w1"))
    side.bus.connected = False
    times = set()

    def checked_often() -> bool:
        times.add(side.table._beats["w1"][1])  # each round of the check forgives anew
        return len(times) > 5

    await eventually(checked_often)
    assert side.lost == []
    side.bus.connected = True
    await eventually(lambda: side.lost == ["i1"])


async def test_a_callback_that_fails_does_not_blind_the_table(side: Side) -> None:
    def fail(_: Presence) -> None:
        raise RuntimeError("no")

    heard: list[str] = []
    side.table.on_lost(fail)
    side.table.on_lost(lambda beat: heard.append(beat.process))
    await side.hear(worker("w1"))
    await eventually(lambda: heard == ["w1"])
    await side.hear(worker("w2"))
    await eventually(lambda: heard == ["w1", "w2"])


async def test_workers_of_a_pool_are_those_ready_and_askers_are_known(side: Side) -> None:
    await side.hear(worker("w1"))
    await side.hear(msgspec.structs.replace(worker("w2"), state=DRAINING))
    await side.hear(msgspec.structs.replace(worker("w3"), pools=["other"]))
    await side.hear(gateway("a1"))
    assert [beat.process for beat in side.table.workers("m")] == ["w1"]
    assert side.table.has_asker("a1")
    assert not side.table.has_asker("a2")


async def test_the_backlog_is_the_queue_once_and_what_runs_everywhere(side: Side) -> None:
    await side.hear(msgspec.structs.replace(worker("w1"), pending=10, in_flight=3))
    await side.hear(msgspec.structs.replace(worker("w2"), pending=12, in_flight=4))
    await eventually(lambda: side.table.backlog("m") == 19)
    assert side.table.backlog("other") == 0


async def test_unreadable_beats_are_dropped(side: Side) -> None:
    await side.bus.deliver(routes.presence("local", "w1"), b"{")
    assert side.table.alive() == {}


async def test_a_beacon_survives_a_description_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "BEAT_S", 0.005)
    bus = FakeBus()
    calls = 0

    def describe() -> Presence:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("no")
        return worker("w1")

    beacon = Beacon(bus, describe)  # type: ignore[arg-type]  # a port in memory
    await beacon.start()
    await eventually(lambda: len(bus.sent) >= 3)
    await beacon.stop()
    assert msgspec.json.decode(bus.sent[-1][1], type=Presence).state == GONE
    sent = len(bus.sent)
    await asyncio.sleep(0)
    assert len(bus.sent) == sent
