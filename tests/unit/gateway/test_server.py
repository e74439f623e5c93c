"""The server around the application: its port, its sockets, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import uvloop
from tests.unit.gateway.fakes import KEY, PATIENCE_S, Door

from inferbus_gateway.server import HttpServer
from inferbus_gateway.settings import GatewaySettings

BODY = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":true}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: door\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
    % (KEY.encode(), len(BODY), BODY)
)


@contextlib.asynccontextmanager
async def connected(server: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_the_operating_system_chooses_the_port_and_a_taken_one_is_an_error(door: Door) -> None:
    server = HttpServer(door.app, door.settings)
    await server.start()
    assert server.port > 0
    with pytest.raises(OSError, match=r"[Aa]ddress"):
        await HttpServer(door.app, GatewaySettings(port=server.port)).start()
    await asyncio.wait_for(server.stop(), PATIENCE_S)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def accepted_socket_options() -> tuple[int, int]:
    door = Door(GatewaySettings(port=0, slow_client_s=7))
    server = HttpServer(door.app, door.settings)
    await server.start()
    async with connected(server) as (reader, writer):
        writer.write(REQUEST)
        engine = await door.admitter.next()
        [connection] = server.connections
        accepted: socket.socket = connection.transport.get_extra_info("socket")
        nodelay = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        user_timeout = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        engine.finish(200, b"{}")
        await reader.readuntil(b"{}")
    await asyncio.wait_for(server.stop(), PATIENCE_S)
    return nodelay, user_timeout


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_accepted_connections_have_nodelay_and_a_bound_for_slow_clients(loop: str) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        nodelay, user_timeout = runner.run(accepted_socket_options())
    assert nodelay == 1
    assert user_timeout == 7000


async def test_answers_do_not_name_the_server(door: Door) -> None:
    server = HttpServer(door.app, door.settings)
    await server.start()
    async with connected(server) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: door\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    assert b"\r\nserver:" not in head.lower()
    await asyncio.wait_for(server.stop(), PATIENCE_S)


async def test_stopping_takes_no_new_connections_and_finishes_open_streams(door: Door) -> None:
    server = HttpServer(door.app, door.settings)
    await server.start()
    async with connected(server) as (reader, writer):
        writer.write(REQUEST)
        engine = await door.admitter.next()
        engine.begin()
        engine.chunk(b"data: 1\n\n")
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE_S)
        stopping = asyncio.ensure_future(server.stop())
        async with asyncio.timeout(PATIENCE_S):
            while True:  # until it no longer listens
                try:
                    _, probe = await asyncio.open_connection("127.0.0.1", server.port)
                except ConnectionError:
                    break
                probe.close()
        assert not stopping.done()
        engine.chunk(b"data: 2\n\n")
        engine.finish()
        rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert b"data: 2\n\n" in rest
        assert rest.endswith(b"0\r\n\r\n")
    await asyncio.wait_for(stopping, PATIENCE_S)
    assert not engine.cancelled


async def test_what_does_not_end_in_time_is_cancelled() -> None:
    door = Door(GatewaySettings(port=0, drain_s=0))
    server = HttpServer(door.app, door.settings)
    await server.start()
    async with connected(server) as (reader, writer):
        writer.write(REQUEST)
        engine = await door.admitter.next()
        engine.begin()
        engine.chunk(b"data: 1\n\n")
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE_S)
        await asyncio.wait_for(server.stop(), PATIENCE_S)
        await asyncio.wait_for(engine.closed.wait(), PATIENCE_S)
        rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert not rest.endswith(b"0\r\n\r\n"), "a stream that was cut must not look complete"
    assert engine.cancelled


async def test_two_requests_on_one_connection(door: Door) -> None:
    server = HttpServer(door.app, door.settings)
    await server.start()
    async with connected(server) as (reader, writer):
        for text in (b'{"n":1}', b'{"n":2}'):
            writer.write(REQUEST)
            engine = await door.admitter.next()
            engine.finish(200, text)
            await asyncio.wait_for(reader.readuntil(text), PATIENCE_S)
            assert engine.closed.is_set() or await asyncio.wait_for(engine.closed.wait(), PATIENCE_S)
    await asyncio.wait_for(server.stop(), PATIENCE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
async def test_a_client_that_reads_nothing_loses_its_engine_and_then_its_connection() -> None:
    door = Door(GatewaySettings(port=0, slow_client_s=0.5))
    server = HttpServer(door.app, door.settings)
    await server.start()
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(deaf, ("127.0.0.1", server.port))
    await loop.sock_sendall(deaf, REQUEST)
    engine = await door.admitter.next()
    engine.begin()
    async with asyncio.timeout(4 * PATIENCE_S):
        while not engine.exchange.ended:  # until the connection's buffers and then the exchange's are full
            engine.chunk(b"data: " + b"x" * 65536 + b"\n\n")
            await asyncio.sleep(0)
        await engine.closed.wait()  # nothing but the loss of the connection ends a write that nobody reads
    deaf.close()
    await asyncio.wait_for(server.stop(), PATIENCE_S)
    assert door.deps.observer.open_requests == 0
