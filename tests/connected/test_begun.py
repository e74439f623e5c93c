"""Requests that are begun, on a real bus: nobody waits for it to have them, and nothing else is different."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.connected.rig import GatewaySide, Rig

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.admission.withdrawals import Withdrawals
from inferbus.answers.exchange import Exchange
from inferbus.contracts.models import ModelEntry
from inferbus.errands import Errands
from inferbus.errors import DependencyDown, NotFound
from inferbus.facts import Facts
from inferbus.models import apply_model
from inferbus.testing import NatsServer, eventually

ASK = Ask(model="m", task="chat", path="/v1/chat/completions", body=b"[1]", deadline_s=20.0)


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, ModelEntry(name="m", pool="m"))
    await apply_model(admin, ModelEntry(name="nowhere", pool="nowhere", runtime="unknown"))
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


async def begun(gateway: GatewaySide, ask: Ask = ASK) -> Exchange:
    return await gateway.admission.begin(Identity(tenant="dev"), ask)


async def test_a_request_is_answered_and_its_place_in_the_queue_known(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    worker.engine.answer = lambda call: call.end(b"begun " + call.work.body)
    exchange = await begun(gateway)
    assert exchange.stored is None  # the bus was not asked yet
    end = await asyncio.wait_for(exchange.whole(), 10)
    assert (end.status, end.data) == (200, b"begun [1]")
    await eventually(lambda: exchange.stored is not None)
    exchange.close()
    await eventually(rig.queue_is_empty)


async def test_a_request_is_held_while_the_bus_is_away(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    worker.engine.answer = lambda call: call.end(b"held")
    await gateway.proxy.refuse()
    gateway.proxy.cut()
    await eventually(lambda: not gateway.bus.connected)
    exchange = await begun(gateway)
    await gateway.proxy.allow()
    assert (await asyncio.wait_for(exchange.whole(), 10)).data == b"held"
    exchange.close()
    assert len(worker.engine.calls) == 1


async def test_a_bus_that_stays_away_ends_it_and_frees_its_place(rig: Rig) -> None:
    gateway = await rig.gateway()
    gateway.admission._hold_s = 0.2
    await gateway.proxy.refuse()
    gateway.proxy.cut()
    await eventually(lambda: not gateway.bus.connected)
    exchange = await begun(gateway)
    assert gateway.admission.bounds.open("m") == 1
    with pytest.raises(DependencyDown):
        await asyncio.wait_for(exchange.whole(), 10)
    assert (exchange.refused, gateway.admission.bounds.open("m"), gateway.asker.exchanges) == (True, 0, [])


async def test_what_no_stream_takes_ends_as_it_does_where_it_is_waited_for(rig: Rig) -> None:
    gateway = await rig.gateway()
    gateway.admission._hold_s = 0.2
    ask = Ask(model="nowhere", task="chat", path="/v1/chat/completions", body=b"[1]", deadline_s=20.0)
    with pytest.raises(DependencyDown) as waited:
        await gateway.admission.admit(Identity(tenant="dev"), ask)
    exchange = await begun(gateway, ask)
    with pytest.raises(DependencyDown) as told:
        await asyncio.wait_for(exchange.whole(), 10)
    assert (type(told.value), told.value.message) == (type(waited.value), waited.value.message)
    with pytest.raises(NotFound):
        await begun(gateway, Ask(model="unknown", task="chat", path="/", body=b"{}"))


async def test_who_leaves_before_it_is_stored_leaves_nothing_in_the_queue(rig: Rig) -> None:
    gateway = await rig.gateway()
    errands = Errands()
    facts = Facts(gateway.bus, "gateway", errands)
    gateway.admission._withdrawals = Withdrawals(gateway.bus, facts, errands, asker=gateway.asker.id)
    exchange = await begun(gateway)
    exchange.cancel()
    assert exchange.stored is None
    await eventually(lambda: exchange.stored is not None)
    await eventually(rig.queue_is_empty)
    await errands.stop()
