"""A head waits for its body, but never longer than one pass of the loop, and never past the end of a connection."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from inferbus_gateway.joined_head import JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return name


@pytest.fixture
def wire() -> Wire:
    return Wire()


def joining(wire: Wire) -> JoiningTransport:
    return JoiningTransport(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_head_and_first_bytes_are_one_write(wire: Wire) -> None:
    transport = joining(wire)
    transport.write(HEAD)
    transport.write(b"ok")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert wire.written == [HEAD + b"ok", b"more"]


async def test_lines_go_into_one_head_only(wire: Wire) -> None:
    transport = joining(wire)
    transport.more_head = b"x-a: 1\r\nx-b: 2\r\n"
    transport.write(HEAD)
    transport.write(b"ok")
    transport.write(HEAD)
    transport.write(b"ok")
    with_lines = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\nx-b: 2\r\n\r\n"
    assert wire.written == [with_lines + b"ok", HEAD + b"ok"]


async def test_a_head_without_a_body_goes_by_itself(wire: Wire) -> None:
    transport = joining(wire)
    transport.write(HEAD)
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [HEAD]


async def test_closing_sends_what_was_held(wire: Wire) -> None:
    transport = joining(wire)
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert wire.written == [HEAD]
    assert wire.closed


async def test_a_body_that_looks_like_a_status_line_is_not_held(wire: Wire) -> None:
    transport = joining(wire)
    transport.write(b"HTTP/1.1 is a protocol")
    assert wire.written == [b"HTTP/1.1 is a protocol"]


async def test_everything_else_is_the_transports(wire: Wire) -> None:
    assert joining(wire).get_extra_info("peername") == "peername"
