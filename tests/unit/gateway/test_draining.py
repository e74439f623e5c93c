"""How the HTTP server ends: nobody who keeps to HTTP is cut off, and nobody keeps it from ending."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from tests.unit.gateway.fakes import PATIENCE_S, Door
from tests.unit.gateway.test_server import REQUEST, connected

from inferbus_gateway.server import HttpServer
from inferbus_gateway.settings import GatewaySettings

LIVE = b"GET /health/live HTTP/1.1\r\nhost: door\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(**settings: float) -> AsyncIterator[tuple[Door, HttpServer]]:
    door = Door(GatewaySettings(port=0, **settings))  # type: ignore[arg-type]  # all of them are numbers
    server = HttpServer(door.app, door.settings)
    await server.start()
    yield door, server
    await asyncio.wait_for(server.stop(), PATIENCE_S)


async def closed(server: HttpServer) -> None:
    """Wait until it no longer listens."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, probe = await asyncio.open_connection("127.0.0.1", server.port)
            except ConnectionError:
                return
            probe.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read the head of an answer, in lower case, and pass over its short body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(length.split(b":")[1]))
    return head.lower()


async def test_a_request_on_an_idle_connection_is_answered_and_told_to_go() -> None:
    async with serving(linger_s=PATIENCE_S) as (_, server), connected(server) as (reader, writer):
        writer.write(LIVE)
        assert b"connection: close" not in await answer(reader)
        stopping = asyncio.ensure_future(server.stop())
        await closed(server)
        writer.write(LIVE)  # it was idle when the drain began: a client may not know better
        assert b"connection: close" in await answer(reader)
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        await asyncio.wait_for(stopping, PATIENCE_S / 2)  # nobody is left to linger for


async def test_an_answer_that_has_not_begun_says_that_it_is_the_last() -> None:
    async with serving() as (door, server), connected(server) as (reader, writer):
        writer.write(REQUEST)
        engine = await door.admitter.next()
        stopping = asyncio.ensure_future(server.stop())
        await closed(server)
        engine.finish(200, b"{}")
        assert b"connection: close" in await answer(reader)
        await asyncio.wait_for(stopping, PATIENCE_S)


async def test_a_client_that_was_promised_its_connection_may_send_on() -> None:
    """The head was out before the drain began: the connection stays open after the answer, for what may be on its way."""
    async with serving(linger_s=PATIENCE_S) as (door, server), connected(server) as (reader, writer):
        writer.write(REQUEST)
        engine = await door.admitter.next()
        engine.begin()
        engine.chunk(b"data: 1\n\n")
        head = await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE_S)
        assert b"connection: close" not in head.lower()
        stopping = asyncio.ensure_future(server.stop())
        await closed(server)
        engine.finish()
        await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE_S)
        writer.write(LIVE)
        assert b"connection: close" in await answer(reader)
        await asyncio.wait_for(stopping, PATIENCE_S / 2)


async def test_idle_connections_do_not_keep_it() -> None:
    async with serving(linger_s=0.2) as (_, server), connected(server) as (reader, _):
        await asyncio.wait_for(server.stop(), PATIENCE_S)
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""


async def test_connections_wait_in_an_inherited_socket_while_nobody_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        async def serve() -> tuple[Door, HttpServer]:
            handed = holder.dup()  # as a process gets it: another descriptor of the same socket
            door = Door(GatewaySettings(port=0, listen_fd=handed.detach(), linger_s=0.1))
            server = HttpServer(door.app, door.settings)
            await server.start()
            return door, server

        _, first = await serve()
        assert first.port == port
        await asyncio.wait_for(first.stop(), PATIENCE_S)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # nobody accepts, nobody refuses
        writer.write(LIVE)
        _, second = await serve()
        _, third = await serve()  # several may serve one socket
        assert b" 200 ok" in await answer(reader)
        writer.close()
        await asyncio.gather(second.stop(), third.stop())


async def test_what_is_no_listening_socket_is_refused() -> None:
    with socket.socket() as deaf, pytest.raises(OSError, match="nobody listens"):
        await HttpServer(Door().app, GatewaySettings(listen_fd=deaf.detach())).start()
    with pytest.raises(OSError, match="listen_fd 9999 is no socket"):
        await HttpServer(Door().app, GatewaySettings(listen_fd=9999)).start()
