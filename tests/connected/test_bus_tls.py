"""TLS with a CA of one's own: who trusts it gets in, nobody talks in the clear, and what is wrong is said at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.connected.certificates import Certificates, make_certificates
from tests.connected.nkey_server import NKeyServer

import inferbus
from inferbus.bus import Bus
from inferbus.bus_users.render import Tls
from inferbus.errors import DependencyDown
from inferbus.settings import BusSettings
from inferbus.testing import eventually

AT_ONCE_S = 15.0


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "tls", "ours")


@pytest.fixture
def others(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "tls", "others")


@pytest.fixture
async def nkeys(tmp_path: Path, ours: Certificates) -> AsyncIterator[NKeyServer]:
    found = NKeyServer(tmp_path)
    found.add("gateway", "gateway")
    found.add("dev", "producer", tenant="dev")
    found.users.use_tls(Tls(cert=ours.cert, key=ours.key))
    async with found.server:
        yield found


async def refused(settings: BusSettings) -> str:
    """Give why a connection was refused, at once."""
    began = time.monotonic()
    with pytest.raises(DependencyDown) as down:
        await Bus.connect(msgspec.structs.replace(settings, connect_timeout_s=60.0), name="x")
    assert time.monotonic() - began < AT_ONCE_S
    return down.value.message


async def test_who_trusts_the_ca_gets_in_and_comes_back(nkeys: NKeyServer, ours: Certificates) -> None:
    bus = await Bus.connect(msgspec.structs.replace(nkeys.settings("gateway"), tls_ca=ours.ca), name="x")
    try:
        await bus.request("$JS.API.INFO", timeout_s=10.0)
        await nkeys.server.restart()
        await eventually(lambda: bus.connected and bus.reconnects == 1, within_s=20.0)
        await bus.request("$JS.API.INFO", timeout_s=10.0)
    finally:
        await bus.close()


async def test_sdk_over_tls(nkeys: NKeyServer, ours: Certificates) -> None:
    url = nkeys.server.url.replace("nats://", "tls://")
    async with inferbus.Client(url, tenant="dev", nkey_seed=nkeys.seed("dev"), tls_ca=ours.ca) as producer:
        await producer.cancel("r")


async def test_an_unknown_ca_is_refused(nkeys: NKeyServer, others: Certificates) -> None:
    for ca in ("", others.ca):
        why = await refused(msgspec.structs.replace(nkeys.settings("gateway"), tls_ca=ca))
        assert "certificate" in why
        assert "not trusted" in why or "verify failed" in why


async def test_a_certificate_for_another_host_is_refused(nkeys: NKeyServer, ours: Certificates) -> None:
    url = nkeys.server.url.replace("127.0.0.1", "localhost")
    assert "localhost" in await refused(msgspec.structs.replace(nkeys.settings("gateway"), url=url, tls_ca=ours.ca))


async def test_plain_tcp_is_refused_by_the_server(nkeys: NKeyServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", nkeys.server.port)
    assert b'"tls_required":true' in await reader.readline()
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    try:
        answer = await asyncio.wait_for(reader.read(200), 10.0)
    except ConnectionResetError:
        answer = b""
    assert b"PONG" not in answer
    writer.close()


async def test_a_server_without_tls_never_hears_who_we_are(tmp_path: Path, ours: Certificates) -> None:
    plain = NKeyServer(tmp_path / "plain")
    plain.add("gateway", "gateway")
    async with plain.server:
        known = plain.settings("gateway")
        assert "no TLS" in await refused(msgspec.structs.replace(known, tls_ca=ours.ca))
        assert "no TLS" in await refused(msgspec.structs.replace(known, url=known.url.replace("nats://", "tls://")))


async def test_clients_are_asked_for_certificates_where_that_is_configured(
    tmp_path: Path, ours: Certificates, others: Certificates
) -> None:
    mutual = NKeyServer(tmp_path / "mutual")
    mutual.add("gateway", "gateway")
    mutual.users.use_tls(Tls(cert=ours.cert, key=ours.key, ca=others.ca))
    async with mutual.server:
        known = msgspec.structs.replace(mutual.settings("gateway"), tls_ca=ours.ca)
        bus = await Bus.connect(msgspec.structs.replace(known, tls_cert=others.cert, tls_key=others.key), name="x")
        await bus.close()
        with pytest.raises(DependencyDown):
            await Bus.connect(msgspec.structs.replace(known, connect_timeout_s=1.0), name="x")
