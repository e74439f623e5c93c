"""Bus: the durable accept through kills and absences, and requests that fail at once."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.connected.conftest import Connect, barrier
from tests.connected.proxy import Proxy

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.errors import DependencyDown, Overloaded, TenantOverloaded, TooLarge
from inferbus.settings import BusSettings
from inferbus.testing import NatsServer, eventually
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import reconcile


def subject(tenant: str = "dev", pool: str = "m") -> str:
    return routes.infer(region="local", runtime="llm", pool=pool, lane="interactive", bucket=0, tenant=tenant)


STREAM = routes.stream_infer("local", "llm", "interactive")


async def stored(bus: Bus, stream: str = STREAM) -> int:
    answer = await bus.request(f"$JS.API.STREAM.INFO.{stream}")
    return int(msgspec.json.decode(answer.data)["state"]["messages"])


async def test_what_was_accepted_survives_a_kill(server: NatsServer, connect: Connect) -> None:
    bus = await connect("gateway")
    first = await bus.accept(subject(), b"one", {}, msg_id="1")
    await server.restart()
    second = await bus.accept(subject(), b"two", {}, msg_id="2")
    assert second == first + 1
    assert await stored(bus) == 2


async def test_accepts_go_on_through_kills_and_lose_nothing(server: NatsServer, connect: Connect) -> None:
    bus = await connect("gateway")
    accepted: list[int] = []
    stopping = asyncio.Event()

    async def publish(name: int) -> None:
        n = 0
        while not stopping.is_set():
            accepted.append(await bus.accept(subject(f"t{name}"), b"x", {}, msg_id=f"{name}:{n}", hold_s=5))
            n += 1

    publishers = [asyncio.create_task(publish(name)) for name in range(8)]
    for _ in range(3):
        before = len(accepted)
        await eventually(lambda before=before: len(accepted) > before + 50)
        await server.restart()
    stopping.set()
    await asyncio.gather(*publishers)
    assert len(set(accepted)) == len(accepted)
    assert await stored(bus) == len(accepted)


async def test_an_accept_is_held_while_the_bus_is_away(server: NatsServer, connect: Connect) -> None:
    bus = await connect("gateway")
    await server.kill()
    await eventually(lambda: not bus.connected)
    held = asyncio.create_task(bus.accept(subject(), b"x", {}, msg_id="1", hold_s=10))
    await asyncio.sleep(0)
    assert not held.done()
    await server.start()
    assert await asyncio.wait_for(held, 5) == 1


async def test_held_too_long_it_says_so(server: NatsServer, connect: Connect) -> None:
    bus = await connect("gateway")
    await server.kill()
    await eventually(lambda: not bus.connected)
    begun = time.monotonic()
    with pytest.raises(DependencyDown, match="not reachable") as caught:
        await bus.accept(subject(), b"x", {}, msg_id="1", hold_s=0.3)
    assert 0.25 < time.monotonic() - begun < 5
    assert caught.value.retry_after_s >= 1


async def test_a_request_in_flight_fails_at_the_disconnect(server: NatsServer, connect: Connect) -> None:
    gateway, worker = await connect("gateway"), await connect("worker")
    asked = asyncio.Event()

    async def never_answer(_: Msg) -> None:
        asked.set()

    await gateway.subscribe("step.a", never_answer)
    await barrier(gateway)
    request = asyncio.create_task(worker.request("step.a", b"", timeout_s=60))
    await asyncio.wait_for(asked.wait(), 5)
    begun = time.monotonic()
    await server.kill()
    with pytest.raises(DependencyDown, match="lost"):
        await asyncio.wait_for(request, 5)
    assert time.monotonic() - begun < 5, "not when its time was up"
    assert not worker._waiting
    with pytest.raises(DependencyDown):
        await worker.request("step.a", b"", timeout_s=60)


async def test_a_frozen_connection_times_out_and_leaves_nothing_behind(server: NatsServer) -> None:
    async with Proxy(server.port) as proxy:
        settings = msgspec.structs.replace(server.settings("gateway"), url=proxy.url)
        bus = await Bus.connect(settings, name="frozen")
        proxy.freeze()
        with pytest.raises(DependencyDown, match="no answer"):
            await bus.request("$JS.API.INFO", timeout_s=0.1)
        assert not bus._waiting
        proxy.thaw()
        await bus.request("$JS.API.INFO")
        await bus.close()


async def test_nobody_there_is_known_at_once(connect: Connect) -> None:
    worker = await connect("worker")
    begun = time.monotonic()
    with pytest.raises(NoResponders):
        await worker.request("step.nobody", b"", timeout_s=30)
    assert time.monotonic() - begun < 5, "not when its time was up"


async def test_the_same_message_id_is_stored_once(connect: Connect) -> None:
    bus = await connect("gateway")
    assert await bus.accept(subject(), b"x", {}, msg_id="same") == await bus.accept(subject(), b"x", {}, msg_id="same")
    assert await stored(bus) == 1


async def test_a_tenant_s_bound_and_other_tenants(server: NatsServer, connect: Connect) -> None:
    await server.reconcile(ModelEntry(name="m", pool="m", limits=Limits(max_pending_per_tenant=5)))
    bus = await connect("gateway")
    answers = await asyncio.gather(
        *(bus.accept(subject(), b"x", {}, msg_id=str(n)) for n in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, TenantOverloaded)]
    assert len(refused) == 15
    assert await bus.accept(subject("other"), b"x", {}, msg_id="o")
    assert await stored(bus) == 6


async def test_a_full_payload_stream_is_overloaded(server: NatsServer, connect: Connect) -> None:
    operator = await connect("operator")
    await reconcile(operator, TopologySettings(pay_max_bytes=3000), [])
    bus = await connect("gateway")
    await bus.accept(routes.pay("dev", "t", 0), bytes(2000), {}, msg_id="0")
    with pytest.raises(Overloaded):
        await bus.accept(routes.pay("dev", "t", 1), bytes(2000), {}, msg_id="1")


async def test_a_pool_nobody_made_is_refused(connect: Connect) -> None:
    bus = await connect("gateway")
    with pytest.raises(DependencyDown):
        await bus.accept(subject(pool="typo"), b"x", {}, msg_id="1", hold_s=0.2)


async def test_what_the_server_would_hang_up_on_never_gets_there(connect: Connect) -> None:
    bus = await connect("gateway")
    with pytest.raises(TooLarge):
        await bus.accept(routes.dlq("x"), bytes(8 * 1024 * 1024 - 20), {"Ib-Dead-Reason": "b" * 100}, msg_id="1")
    with pytest.raises(TooLarge):
        await bus.publish("reply.dev." + "a" * 5000, b"")
    assert bus.connected
    assert bus.reconnects == 0
    await bus.request("$JS.API.INFO")


async def test_after_an_error_of_the_server_it_connects_again(connect: Connect) -> None:
    """nats-py alone closes for good here, and the process would be deaf until somebody restarts it."""
    bus = await connect("gateway")
    await bus.nc.publish("reply.dev." + "a" * 5000, b"")  # past our own check
    await eventually(lambda: bus.reconnects == 1)
    await bus.request("$JS.API.INFO")


async def test_a_subject_that_is_no_text_deafens_nobody(server: NatsServer, connect: Connect) -> None:
    """Any tenant may send this; nats-py alone stops reading then."""
    bus = await connect("gateway")
    heard: list[str] = []

    async def on_cancel(message: Msg) -> None:
        heard.append(message.subject)

    await bus.subscribe(routes.CANCEL_ALL, on_cancel)
    await barrier(bus)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    writer.write(b'CONNECT {"user":"dev","pass":"devpw"}\r\nPUB cancel.dev.\xff\xfe 0\r\n\r\nPING\r\n')
    async with asyncio.timeout(5):
        while not (await reader.readline()).startswith(b"PONG"):
            pass
    writer.close()
    await writer.wait_closed()
    await eventually(lambda: len(heard) == 1)
    await bus.request("$JS.API.INFO")
    assert bus.reconnects == 0


async def test_reconnect_steps_are_all_called_whatever_one_of_them_does(server: NatsServer, connect: Connect) -> None:
    bus = await connect("gateway")
    called: list[str] = []

    async def fail() -> None:
        called.append("fail")
        raise RuntimeError("no")

    async def succeed() -> None:
        called.append("succeed")

    async def forgotten() -> None:
        called.append("forgotten")

    bus.on_reconnect(fail)
    bus.on_reconnect(succeed)
    bus.on_reconnect(forgotten)()
    await server.restart()
    await eventually(lambda: called == ["fail", "succeed"])
    await bus.request("$JS.API.INFO")
    assert bus.reconnects == 1


async def test_a_failed_connect_says_why(server: NatsServer) -> None:
    nobody = BusSettings(url="nats://127.0.0.1:1", connect_timeout_s=0.3)
    with pytest.raises(DependencyDown, match=r"127\.0\.0\.1:1.*ConnectionRefused"):
        await Bus.connect(nobody, name="x")
    wrong = msgspec.structs.replace(server.settings("gateway"), password="wrong", connect_timeout_s=0.5)
    with pytest.raises(DependencyDown, match="Authorization Violation"):
        await Bus.connect(wrong, name="x")


async def test_a_drained_subscription_gets_what_was_on_the_way(connect: Connect) -> None:
    gateway, worker = await connect("gateway"), await connect("worker")
    heard: list[bytes] = []

    async def on_step(message: Msg) -> None:
        heard.append(message.data)

    subscription = await gateway.subscribe("step.a", on_step)
    await barrier(gateway)
    for n in range(200):
        await worker.publish("step.a", b"%d" % n)
    await barrier(worker)  # the server has them all
    await gateway.drain(subscription)
    assert len(heard) == 200
    await worker.publish("step.a", b"after")
    await barrier(worker)
    await barrier(gateway)
    assert len(heard) == 200


async def test_draining_and_closing_a_connection_that_is_dying(connect: Connect) -> None:
    """Under uvloop a write to a transport that has just been closed raises RuntimeError."""
    gateway = await connect("gateway")

    async def on_step(_: Msg) -> None: ...

    def fail(_: bytes) -> None:
        raise RuntimeError("the handler is closed")

    subscription = await gateway.subscribe("step.a", on_step)
    patch = pytest.MonkeyPatch()
    patch.setattr(gateway.nc._transport, "write", fail)
    try:
        await gateway.drain(subscription)
        assert subscription._id not in gateway.nc._subs
        await gateway.close()
    finally:
        patch.undo()
    assert gateway.nc.is_closed


async def test_keys_and_values(connect: Connect) -> None:
    admin = await connect("admin")
    assert await admin.kv_get(routes.KV_MODELS, "a") is None
    await admin.kv_put(routes.KV_MODELS, "a", b"1")
    await admin.kv_put(routes.KV_MODELS, "b", b"2")
    await admin.kv_put(routes.KV_MODELS, "a", b"3")
    assert await admin.kv_get(routes.KV_MODELS, "a") == b"3"
    await admin.kv_delete(routes.KV_MODELS, "b")
    assert await admin.kv_get(routes.KV_MODELS, "b") is None
    assert await admin.kv_keys(routes.KV_MODELS) == ["a", "b"], "b's marker is still stored"


async def test_closing_sends_what_is_buffered(connect: Connect, server: NatsServer) -> None:
    gateway = await connect("gateway")
    heard: list[bytes] = []

    async def on_step(message: Msg) -> None:
        heard.append(message.data)

    await gateway.subscribe("step.a", on_step)
    await barrier(gateway)
    worker = await server.connect("worker")
    for n in range(100):
        await worker.publish("step.a", b"%d" % n)
    await worker.close()
    await eventually(lambda: len(heard) == 100)
    await worker.close()
    with pytest.raises(DependencyDown):
        await worker.publish("step.a", b"")
    with pytest.raises(DependencyDown):
        await worker.request("step.a", b"")
    with pytest.raises(DependencyDown):
        await worker.subscribe("step.a", on_step)


async def test_what_shares_a_write_arrives_in_order_and_by_itself(connect: Connect) -> None:
    """`soon` and `gather` move messages together, and leave none behind where nothing follows."""
    bus, heard = await connect("gateway"), list[bytes]()
    inbox = bus.nc.new_inbox()
    await bus.listen(inbox, lambda message: heard.append(message.data))
    bus.gather(0.01)
    for n in range(6):
        await bus.publish(inbox, str(n).encode(), {"Name": "known"}, soon=n % 2 == 1)
    await eventually(lambda: len(heard) == 6)
    await bus.publish(inbox, b"6", {"Name": "known"}, soon=True)
    await eventually(lambda: len(heard) == 7)
    assert heard == [str(n).encode() for n in range(7)]
    done = await asyncio.gather(*(bus.accept(subject(), b"", {}, msg_id=str(n), soon=n % 2 == 1) for n in range(4)))
    assert len(set(done)) == 4
