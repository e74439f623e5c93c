"""The deployed configuration, as the server understood it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from inferbus.bus import Bus
from inferbus.bus.sizes import MAX_PAYLOAD_BYTES
from inferbus.errors import DependencyDown
from inferbus.settings import BusSettings
from inferbus.testing import NatsServer, eventually

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, CONFIG) as server:
        yield server


async def test_limits(server: NatsServer, tmp_path: Path) -> None:
    def monitored(path: str) -> dict[str, object]:
        (file,) = (tmp_path / "ports").glob("*.ports")
        with urlopen(f"{json.loads(file.read_text())['monitoring'][0]}/{path}") as answer:
            found: dict[str, object] = json.loads(answer.read())
            return found

    assert await asyncio.to_thread(monitored, "healthz") == {"status": "ok"}
    varz = await asyncio.to_thread(monitored, "varz")
    assert varz["max_payload"] == MAX_PAYLOAD_BYTES
    assert varz["auth_required"] is True
    assert varz["write_deadline"] == 10_000_000_000


async def test_more_than_a_thousand_consumers_per_stream(server: NatsServer) -> None:
    bus = await server.connect("operator")
    stream = {"name": "S", "subjects": ["s.*"], "storage": "memory"}
    try:
        await bus.request("$JS.API.STREAM.CREATE.S", json.dumps(stream).encode())
        for n in range(1001):
            config = {"durable_name": f"c{n}", "ack_policy": "explicit", "mem_storage": True}
            body = json.dumps({"stream_name": "S", "config": config}).encode()
            answer = json.loads((await bus.request(f"$JS.API.CONSUMER.DURABLE.CREATE.S.c{n}", body)).data)
            assert "error" not in answer
    finally:
        await bus.close()


async def test_queue_survives_a_kill(server: NatsServer) -> None:
    await server.reconcile()
    producer = await server.connect("dev")
    operator = await server.connect("operator")
    try:
        assert await producer.accept("request.dev.m.interactive", b"{}", {}, msg_id="dev:1") == 1
        await server.restart()
        await eventually(lambda: operator.connected)
        info = json.loads((await operator.request("$JS.API.STREAM.INFO.REQUEST")).data)
        assert info["state"]["messages"] == 1
    finally:
        await producer.close()
        await operator.close()


@pytest.mark.parametrize(("user", "password"), [("", ""), ("operator", "wrong"), ("nobody", "operatorpw")])
async def test_strangers_are_refused(server: NatsServer, user: str, password: str) -> None:
    settings = BusSettings(url=server.url, user=user, password=password, connect_timeout_s=1.0)
    with pytest.raises(DependencyDown):
        await Bus.connect(settings, name="stranger")
