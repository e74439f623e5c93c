"""Direct delivery on a real bus: requests of a queue group, with an engine on a string."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from tests.connected.rig import Rig, WorkerSide, read
from tests.connected.test_usage_events import events

from inferbus import routes
from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Exchange
from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.errors import DeadlineWhileRunning, EngineDead, Overloaded
from inferbus.models import apply_model
from inferbus.queue.slots import Slots
from inferbus.testing import NatsServer, eventually
from inferbus.worker.direct import DirectDoor

MODEL = ModelEntry(name="m", pool="m", delivery="direct")


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, MODEL)
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


async def opened(worker: WorkerSide, slots: int = 8, refused: list[None] | None = None) -> DirectDoor:
    told = [] if refused is None else refused
    door = DirectDoor(
        worker.bus, worker.attempts, runtime="llm", pool="m", handle=worker.serving.on_direct,
        on_refused=lambda: told.append(None),
    )  # fmt: skip
    await door.open(Slots(slots))
    await worker.bus.request("$JS.API.INFO")  # the server knows of the subscription
    return door


async def admitted(gateway: object, **fields: object) -> Exchange:
    ask = {"model": "m", "task": "chat", "path": "/v1/chat/completions", "body": b"{}", "deadline_s": 20.0} | fields
    return await gateway.admission.admit(Identity(tenant="dev"), Ask(**ask))  # type: ignore[attr-defined]


async def test_a_request_is_answered_in_its_reply_and_nothing_is_stored(rig: Rig, server: NatsServer) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    door = await opened(worker)
    worker.engine.answer = lambda call: call.end(b"direct " + call.work.body)
    exchange = await admitted(gateway, body=b"[1]")
    assert await read(exchange) == b"direct [1]"
    assert (exchange.end.status, exchange.end.usage.prompt_tokens, await rig.left()) == (200, 1, 0)
    await eventually(lambda: door.running == 0)
    operator = await server.connect("operator")
    (event,) = await events(operator)
    await operator.close()
    assert (event.tenant, event.pool, event.outcome, event.prompt_tokens) == ("dev", "m", "finished", 1)


async def test_streams_and_the_batch_lane_go_through_the_queue(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    door = await opened(worker)
    exchange = await admitted(gateway, streamed=True)
    await eventually(lambda: len(worker.engine.calls) == 1)
    assert (door.running, await rig.left()) == (0, 1)
    worker.engine.calls[0].say(b"queued")
    worker.engine.calls[0].end()
    assert await read(exchange) == b"queued"


async def test_a_full_worker_refuses_at_once_and_another_is_asked(rig: Rig) -> None:
    gateway = await rig.gateway()
    full, free = await rig.worker("worker-0"), await rig.worker("worker-1")
    refused: list[None] = []
    await opened(full, 1, refused)
    await opened(free, 20)
    free.engine.answer = lambda call: call.end(b"free")
    exchanges = [await admitted(gateway) for _ in range(20)]
    await eventually(lambda: len(full.engine.calls) == 1 and len(refused) > 0)
    await eventually(lambda: len(free.engine.calls) == 19)
    full.engine.calls[0].end(b"full")
    assert sorted([await read(exchange) for exchange in exchanges]) == [b"free"] * 19 + [b"full"]


async def test_where_nobody_has_room_the_client_is_told_within_seconds(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    with pytest.raises(Overloaded):  # nobody is there at all
        await read(await admitted(gateway))
    await opened(worker, 1)
    running = await admitted(gateway)
    await eventually(lambda: len(worker.engine.calls) == 1)
    with pytest.raises(Overloaded):
        await read(await admitted(gateway))
    worker.engine.calls[0].end(b"done")
    assert await read(running) == b"done"


async def test_at_most_once(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    door = await opened(worker)
    exchange = await admitted(gateway)
    await eventually(lambda: len(worker.engine.calls) == 1)
    worker.engine.die()
    with pytest.raises(EngineDead):
        await read(exchange)
    exchange = await admitted(gateway, deadline_s=0.5)
    with pytest.raises(DeadlineWhileRunning):
        await read(exchange)
    await eventually(lambda: door.running == 0)
    assert len(worker.engine.calls) == 2
    assert worker.engine.calls[1].aborted


async def test_a_request_nobody_waits_for_any_more_is_stopped_where_it_runs(rig: Rig, server: NatsServer) -> None:
    gateway, idle, worker = await rig.gateway(), await rig.worker("worker-0"), await rig.worker("worker-1")
    door = await opened(worker)
    exchange, other = await admitted(gateway), await admitted(gateway)
    await eventually(lambda: len(worker.engine.calls) == 2)
    await eventually(lambda: {"worker-0", "worker-1"} <= gateway.presence.alive().keys())
    exchange.cancel()
    await eventually(lambda: door.running == 1)
    await eventually(lambda: [call.aborted for call in worker.engine.calls].count(True) == 1)
    (left,) = (call for call in worker.engine.calls if not call.aborted)
    left.end(b"done")
    assert await read(other) == b"done"
    assert idle.engine.calls == []
    operator = await server.connect("operator")
    await eventually(lambda: _has_outcomes(operator, ["cancelled", "finished"]))
    await operator.close()


async def test_a_deadline_stops_it_where_it_runs(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    door = await opened(worker)
    exchange = await admitted(gateway, deadline_s=0.5)
    with pytest.raises(DeadlineWhileRunning):
        await read(exchange)
    await eventually(lambda: door.running == 0)
    assert worker.engine.calls[0].aborted


async def test_a_gateway_that_is_gone_frees_the_slots_of_what_it_asked(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    door = await opened(worker)
    await admitted(gateway)
    await eventually(lambda: len(worker.engine.calls) == 1)
    await gateway.bus.close()
    await eventually(lambda: door.running == 0, within_s=20)
    assert worker.engine.calls[0].aborted


async def _has_outcomes(bus: Bus, outcomes: list[str]) -> bool:
    return sorted(event.outcome for event in await events(bus)) == outcomes


async def test_a_door_that_drains_finishes_what_it_has_and_takes_nothing_new(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    door = await opened(worker)
    exchange = await admitted(gateway)
    await eventually(lambda: len(worker.engine.calls) == 1)
    draining = asyncio.create_task(door.drain(10))
    with pytest.raises(Overloaded):
        await read(await admitted(gateway))
    worker.engine.calls[0].end(b"done")
    assert await read(exchange) == b"done"
    assert await draining
    assert routes.direct_pool(region="local", runtime="llm", pool="m") == "direct.local.llm.m.*"


def test_an_entry_says_how_it_is_delivered() -> None:
    assert msgspec.json.decode(msgspec.json.encode(MODEL), type=ModelEntry).delivery == "direct"
