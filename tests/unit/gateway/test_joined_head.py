"""A head waits for its body, but never longer than one pass of the loop, and never past the end of a connection."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest
from litestar.types import Receive
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from inferbus_gateway.joined_head import JoiningTransport, send_whole, take_body

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


def cycle_on(wire: Wire, ended: list[bool], *, method: str = "POST", keep_alive: bool = True) -> RequestResponseCycle:
    transport = joining(wire)
    transport.more_head = b"x-a: 1\r\n"
    return RequestResponseCycle(
        scope={"type": "http", "method": method},  # type: ignore[arg-type]  # all that is read of it
        transport=cast("asyncio.Transport", transport),
        flow=FlowControl(cast("asyncio.Transport", wire)),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: ended.append(True),
    )


HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"6")]


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_a_whole_response_is_what_two_steps_send(wire: Wire, status: int) -> None:
    ended: list[bool] = []
    body = b"{}\r\n\r\n"
    cycle = cycle_on(wire, ended)
    assert send_whole(cycle.send, status, HEADERS, body)
    assert (ended, cycle.response_complete, cycle.message_event.is_set()) == ([True], True, True)
    other = Wire()
    steps = cycle_on(other, ended)
    await steps.send({"type": "http.response.start", "status": status, "headers": HEADERS})
    await steps.send({"type": "http.response.body", "body": body, "more_body": False})
    assert wire.written == other.written
    assert len(wire.written) == 1
    assert not send_whole(cycle.send, status, HEADERS, body)  # once


@pytest.mark.parametrize("reason", ["HEAD", "last", "begun", "gone", "slow", "large", "bad value", "other server"])
async def test_what_is_not_plain_goes_in_steps(wire: Wire, reason: str) -> None:
    ended: list[bool] = []
    cycle = cycle_on(wire, ended, method="HEAD" if reason == "HEAD" else "POST", keep_alive=reason != "last")
    cycle.response_started = reason == "begun"
    cycle.disconnected = reason == "gone"
    if reason == "slow":
        cycle.flow.write_paused = True
    headers = [*HEADERS, (b"x-b", b"1\r\nx-c: 2" if reason == "bad value" else b"1")]
    body = bytes(65_537 if reason == "large" else 6)

    async def send(_event: object) -> None:
        """Another server's."""

    assert not send_whole(send if reason == "other server" else cycle.send, 200, headers, body)
    assert wire.written == []
    assert ended == []


async def test_a_body_that_is_here_is_taken_as_receive_would_give_it(wire: Wire) -> None:
    cycle = cycle_on(wire, [])
    cycle.body, cycle.more_body = bytearray(b"{}"), False
    cycle.message_event.set()
    assert take_body(cast("Receive", cycle.receive)) == b"{}"
    assert (cycle.body, cycle.message_event.is_set()) == (
        b"",
        False,
    )  # what is awaited next is the end of the connection


@pytest.mark.parametrize("reason", ["more", "gone", "told", "answered", "other server"])
async def test_a_body_that_is_not_here_is_waited_for(wire: Wire, reason: str) -> None:
    cycle = cycle_on(wire, [])
    cycle.body, cycle.more_body = bytearray(b"{}"), reason == "more"
    cycle.disconnected = reason == "gone"
    cycle.waiting_for_100_continue = reason == "told"
    cycle.response_complete = reason == "answered"

    async def receive() -> None:
        """Another server's."""

    assert take_body(cast("Receive", receive if reason == "other server" else cycle.receive)) is None
    assert cycle.body == b"{}"
