"""Tickets: large bodies through the payload stream."""

from __future__ import annotations

import os

import msgspec
import pytest
from tests.connected.conftest import Connect

from inferbus import routes
from inferbus.bus.tickets import TicketLost, load_payload, store_payload, ticket_from
from inferbus.errors import DependencyDown
from inferbus.testing import NatsServer, eventually


@pytest.mark.parametrize("size", [1, 1024 * 1024, 3_000_000, 20_000_000])
async def test_what_is_stored_is_loaded(connect: Connect, size: int) -> None:
    gateway, worker = await connect("gateway"), await connect("worker")
    body = os.urandom(size)
    stored = await store_payload(gateway, "dev", body, ttl_s=60)
    assert stored.size == size
    ticket = ticket_from(stored.to_header())  # as the worker gets it
    subscriptions = len(worker.nc._subs)
    assert await load_payload(worker, "dev", ticket) == body
    assert len(worker.nc._subs) == subscriptions


async def test_two_bodies_do_not_mix(connect: Connect) -> None:
    gateway, worker = await connect("gateway"), await connect("worker")
    bodies = [os.urandom(2_500_000) for _ in range(3)]
    tickets = [await store_payload(gateway, "dev", body, ttl_s=60) for body in bodies]
    assert [await load_payload(worker, "dev", ticket) for ticket in tickets] == bodies


async def test_a_body_past_its_time_is_lost(connect: Connect) -> None:
    gateway, worker = await connect("gateway"), await connect("worker")
    ticket = await store_payload(gateway, "dev", bytes(2_000_000), ttl_s=1)
    await load_payload(worker, "dev", ticket)

    async def lost() -> bool:
        try:
            await load_payload(worker, "dev", ticket)
        except TicketLost:
            return True
        return False

    await eventually(lost)


async def test_a_body_with_a_missing_or_changed_part_is_lost(connect: Connect) -> None:
    gateway, worker, operator = await connect("gateway"), await connect("worker"), await connect("operator")
    ticket = await store_payload(gateway, "dev", os.urandom(3_000_000), ttl_s=60)
    changed = msgspec.structs.replace(ticket, sha256="0" * 64)
    with pytest.raises(TicketLost, match="damaged"):
        await load_payload(worker, "dev", changed)
    body = msgspec.json.encode({"seq": ticket.first_seq + 1})
    await operator.request(f"$JS.API.STREAM.MSG.DELETE.{routes.STREAM_PAY}", body)
    with pytest.raises(TicketLost, match=f"{ticket.chunks - 1} of {ticket.chunks}"):
        await load_payload(worker, "dev", ticket)


async def test_another_tenant_s_ticket_leads_nowhere(connect: Connect) -> None:
    gateway, worker = await connect("gateway"), await connect("worker")
    ticket = await store_payload(gateway, "dev", bytes(100), ttl_s=60)
    with pytest.raises(TicketLost):
        await load_payload(worker, "other", ticket)


async def test_a_stream_that_does_not_answer_is_no_lost_body(server: NatsServer, connect: Connect) -> None:
    gateway, worker, operator = await connect("gateway"), await connect("worker"), await connect("operator")
    ticket = await store_payload(gateway, "dev", bytes(100), ttl_s=60)
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_PAY}")
    with pytest.raises(DependencyDown):
        await load_payload(worker, "dev", ticket, timeout_s=0.5)
    await server.kill()
    await eventually(lambda: not worker.connected)
    with pytest.raises(DependencyDown):
        await load_payload(worker, "dev", ticket, timeout_s=0.2)
    await server.start()
