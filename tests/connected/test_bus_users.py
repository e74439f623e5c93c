"""NKeys against a real server: what every user may do, who is refused, and that both are said at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats.errors
import pytest
from nats.aio.msg import Msg
from tests.connected.conftest import barrier
from tests.connected.nkey_server import TEMPLATE, NKeyServer
from tests.connected.test_bus_permissions import JETSTREAM, MAY, MAY_NOT_PUBLISH, MAY_NOT_READ

import inferbus
from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NotPermitted
from inferbus.bus_users.template import TENANT, read_template
from inferbus.bus_users.user import new_seed
from inferbus.errors import DependencyDown, Forbidden
from inferbus.testing import eventually

ROLES = sorted(read_template(TEMPLATE.read_text()).roles.keys() - {TENANT})
_NEXT = "$JS.API.CONSUMER.MSG.NEXT"
INTERACTIVE, BATCH = (routes.stream_infer("local", "llm", lane) for lane in routes.LANES)
# A refusal comes in a millisecond; the timeouts are longer than this. The machine may be busy.
AT_ONCE_S = 10.0


@pytest.fixture
async def nkeys(tmp_path: Path) -> AsyncIterator[NKeyServer]:
    found = NKeyServer(tmp_path)
    for role in ROLES:
        found.add(role, role)
    for tenant in ("dev", "other"):
        found.add(tenant, "producer", tenant=tenant)
    for pool in ("m", "n"):
        found.add(f"worker-{pool}", "worker", pools=(pool,))
    async with found.server:
        await found.reconcile()
        yield found


@pytest.fixture
async def buses(nkeys: NKeyServer) -> AsyncIterator[dict[str, Bus]]:
    found = {name: await nkeys.connect(name) for name in (*ROLES, "dev", "other", "worker-m", "worker-n")}
    yield found
    await asyncio.gather(*(bus.close() for bus in found.values()))


async def refused(bus: Bus, subject: str) -> bool:
    """Say whether the server tells that we may not publish there."""
    before = sum(bus.refusals.counts.values())
    await bus.publish(subject, b"")
    await bus.nc.flush()
    await bus.nc.flush()
    return sum(bus.refusals.counts.values()) > before


async def refused_to_read(bus: Bus, subject: str) -> bool:
    async def ignore(_message: Msg) -> None:
        """It is about being let."""

    before = sum(bus.refusals.counts.values())
    subscription = await bus.subscribe(subject, ignore)
    await bus.nc.flush()
    await bus.nc.flush()
    await bus.unsubscribe(subscription)
    return sum(bus.refusals.counts.values()) > before


def renamed(subject: str) -> str:
    return subject.replace("_INBOX_other", "_INBOX_producer.other")


async def test_roles_with_nkeys_may_what_they_may_with_passwords(buses: dict[str, Bus]) -> None:
    for role, subject in MAY_NOT_PUBLISH:
        assert await refused(buses[role], renamed(subject)), (role, subject)
    for role, subject in MAY_NOT_READ:
        assert await refused_to_read(buses[role], renamed(subject)), (role, subject)
    for role, subject, reader in MAY:
        assert not await refused_to_read(buses[reader], subject), (reader, subject)
        assert not await refused(buses[role], subject), (role, subject)
    for role, subject in JETSTREAM:
        await buses[role].request(subject, timeout_s=10.0)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("worker-m", f"{_NEXT}.{INTERACTIVE}.n_0"),
        ("worker-n", f"{_NEXT}.{BATCH}.m_0"),
        ("worker-m", f"{_NEXT}.{INTERACTIVE}.m_64"),
        ("worker-m", f"{_NEXT}.REQUEST.gateway_interactive"),
        ("worker-m", f"$JS.ACK.{INTERACTIVE}.n_0.1.1.1.1.0"),
        ("worker-m", f"$JS.ACK._.abc.{INTERACTIVE}.n_0.1.1.1.1.0.x"),
        ("worker-m", "$JS.ACK.REQUEST.gateway_interactive.1.1.1.1.0"),
        ("worker-m", "_INBOX_worker.worker-n.x"),
        ("worker-m", routes.infer(region="local", runtime="llm", pool="m", lane="batch", bucket=0, tenant="dev")),
        ("other", "request.dev.m.interactive"),
        ("other", "cancel.dev.r"),
        ("other", "fetch.dev.r"),
        ("other", "_INBOX_producer.dev.x"),
    ],
)
async def test_a_user_keeps_to_its_own(buses: dict[str, Bus], name: str, subject: str) -> None:
    assert await refused(buses[name], subject)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("worker-m", "_INBOX_worker.>"),
        ("worker-m", "_INBOX_worker.worker-n.>"),
        ("other", "reply.dev.>"),
        ("other", "_INBOX_producer.dev.>"),
        ("other", "_INBOX_producer.>"),
    ],
)
async def test_nobody_reads_anothers_answers(buses: dict[str, Bus], name: str, subject: str) -> None:
    assert await refused_to_read(buses[name], subject)


async def test_a_tenant_called_as_a_role_has_none_of_its_inboxes(nkeys: NKeyServer) -> None:
    nkeys.add("sly", "producer", tenant="gateway")
    await nkeys.server.reload()
    bus = await nkeys.connect("sly")
    try:
        assert await refused_to_read(bus, "_INBOX_gateway.>")
        assert not await refused(bus, "request.gateway.m.interactive")
    finally:
        await bus.close()


async def test_a_worker_of_a_pool_pulls_it_and_settles(buses: dict[str, Bus]) -> None:
    gateway, worker = buses["gateway"], buses["worker-m"]
    seen: list[Msg] = []
    inbox = worker.nc.new_inbox()
    assert inbox.startswith("_INBOX_worker.worker-m.")
    await worker.listen(inbox, seen.append)
    for lane, stream in zip(routes.LANES, (INTERACTIVE, BATCH), strict=True):
        work = routes.infer(region="local", runtime="llm", pool="m", lane=lane, bucket=0, tenant="dev")
        await gateway.request(work, b"{}", timeout_s=10.0)
        pull = {"batch": 1, "expires": int(10e9)}
        await worker.publish(f"{_NEXT}.{stream}.m_0", msgspec.json.encode(pull), reply=inbox)
        await eventually(lambda: bool(seen), within_s=10.0)
        assert (await worker.request(seen.pop().reply, b"+ACK", timeout_s=10.0)).data == b""
    assert worker.refusals.counts == {}


async def test_what_is_refused_is_an_error_at_once_and_counted(buses: dict[str, Bus]) -> None:
    worker = buses["worker-m"]
    began = time.monotonic()
    with pytest.raises(NotPermitted, match=r"publish to request\.dev\.m\."):
        await worker.request("request.dev.M.interactive", timeout_s=30.0)
    with pytest.raises(NotPermitted, match=r"kv\.models"):
        await worker.accept(routes.kv_subject("models", "m"), b"{}", {}, msg_id="1", hold_s=30.0)
    assert time.monotonic() - began < 2 * AT_ONCE_S
    assert worker.refusals.counts == {("publish", "request"): 1, ("publish", "$kv.models"): 1}


async def test_others_that_wait_go_on_waiting(buses: dict[str, Bus]) -> None:
    gateway, worker = buses["gateway"], buses["worker"]
    asked = asyncio.Event()

    async def answer(message: Msg) -> None:
        await asked.wait()
        await gateway.publish(message.reply, b"late")

    await gateway.subscribe("step.slow", answer)
    await barrier(gateway)
    waiting = asyncio.create_task(worker.request("step.slow", timeout_s=30.0))
    with pytest.raises(NotPermitted):
        await worker.request("step2.slow", timeout_s=30.0)
    asked.set()
    assert (await waiting).data == b"late"


async def test_who_is_unknown_is_told_at_once_and_no_seed_is_shown(
    nkeys: NKeyServer, capfd: pytest.CaptureFixture[str]
) -> None:
    stranger = new_seed()
    known = nkeys.settings("gateway")
    for settings in (
        msgspec.structs.replace(known, nkey_seed=stranger),
        msgspec.structs.replace(known, nkey_seed="", user="gateway", password="gatewaypw"),
        msgspec.structs.replace(known, nkey_seed="", user=""),
    ):
        began = time.monotonic()
        with pytest.raises(DependencyDown, match="Authorization Violation") as down:
            await Bus.connect(msgspec.structs.replace(settings, connect_timeout_s=60.0), name="x")
        assert time.monotonic() - began < AT_ONCE_S
        assert stranger not in str(down.value)
    assert stranger not in "".join(capfd.readouterr())


async def test_a_revoked_producer_is_disconnected_and_the_others_are_not(nkeys: NKeyServer) -> None:
    dev, other = await nkeys.connect("dev"), await nkeys.connect("other")
    try:
        await dev.request("request.dev.m.interactive", b"{}", timeout_s=10.0)
        nkeys.users.revoke("dev")
        await nkeys.server.reload()
        await eventually(lambda: not dev.connected, within_s=10.0)

        async def is_told() -> bool:
            try:
                await dev.accept("request.dev.m.interactive", b"{}", {}, msg_id="1", hold_s=0.2)
            except DependencyDown as exc:
                return "refuses this process" in exc.message
            return False

        await eventually(is_told, within_s=10.0)
        await other.request("request.other.m.interactive", b"{}", timeout_s=10.0)
        assert other.reconnects == 0
    finally:
        await asyncio.gather(dev.close(), other.close())


async def test_who_is_let_in_again_comes_back_by_itself(nkeys: NKeyServer) -> None:
    dev = await nkeys.connect("dev")
    before = nkeys.users.config.read_bytes()
    try:
        nkeys.users.revoke("dev")
        await nkeys.server.reload()
        await eventually(lambda: not dev.connected, within_s=10.0)
        nkeys.users.config.write_bytes(before)
        await nkeys.server.reload()
        await eventually(lambda: dev.connected, within_s=15.0)
        assert await dev.accept("request.dev.m.interactive", b"{}", {}, msg_id="1", hold_s=10.0)
    finally:
        await dev.close()


async def test_a_new_user_is_known_after_a_reload_and_nobody_is_disconnected(nkeys: NKeyServer) -> None:
    gateway = await nkeys.connect("gateway")
    try:
        nkeys.add("acme", "producer", tenant="acme")
        await nkeys.server.reload()
        acme = await nkeys.connect("acme")
        await acme.request("request.acme.m.interactive", b"{}", timeout_s=10.0)
        await acme.close()
        await gateway.request("$JS.API.INFO", timeout_s=10.0)
        assert gateway.reconnects == 0
    finally:
        await gateway.close()


async def test_the_sdk_speaks_for_its_own_tenant_only(nkeys: NKeyServer) -> None:
    url, seed = nkeys.server.url, nkeys.seed("dev")
    messages = [{"role": "user", "content": "hello"}]
    async with inferbus.Client(url, tenant="other", user="producer.dev", nkey_seed=seed) as producer:
        with pytest.raises(Forbidden, match=r"publish to request\.other"):
            await producer.chat("m", messages, timeout_s=60.0)
    operator = await nkeys.connect("operator")
    try:
        async with inferbus.Client(url, tenant="dev", nkey_seed=seed) as producer:
            asked = asyncio.create_task(producer.chat("m", messages, timeout_s=60.0))

            async def is_stored() -> bool:
                info = await operator.request("$JS.API.STREAM.INFO.REQUEST", timeout_s=10.0)
                return int(msgspec.json.decode(info.data)["state"]["messages"]) == 1

            await eventually(is_stored, within_s=10.0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
    finally:
        await operator.close()


async def test_a_client_of_its_own_needs_only_the_seed(nkeys: NKeyServer) -> None:
    nc = await nats.connect(
        nkeys.server.url, nkeys_seed_str=nkeys.seed("dev"), inbox_prefix=b"_INBOX_producer.dev", allow_reconnect=False
    )
    answer = await nc.request("request.dev.m.interactive", b"{}", timeout=10)
    assert b'"stream":"REQUEST"' in answer.data
    await nc.close()
