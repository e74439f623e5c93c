"""Connection: headers read as nats-py reads them, and messages that wait for the next one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import (
    BadHeaderError,
    BadSubjectError,
    ConnectionClosedError,
    MaxPayloadError,
    OutboundBufferLimitError,
)

from inferbus.bus.connection import Connection

ODD = st.sampled_from([
    b"Name: value", b"Name:value", b"Name:\tvalue ", b" Name : value", b"Na me: value", b"no colon", b": no name", b"",
    b"Name: ", b"Name: a: b", b"N\xc3\xa4me: value", b"Name: v\xc3\xa4lue", b"Name: \xff\xfe", b"Na\tme: value",
])  # fmt: skip


@given(st.lists(ODD, max_size=6))
def test_headers_are_read_as_nats_py_reads_them(lines: list[bytes]) -> None:
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    assert Connection._parse_header_lines(raw) == Client._parse_header_lines(raw)


HEADERS = {"Ib-Request": "r", "Nats-Msg-Id": "dev:r", "Ib-Note": "ä"}


class Writer:
    """The part of a StreamWriter that sending needs; `waiting` is what its transport says it has not written."""

    def __init__(self) -> None:
        self.transport = self
        self.written: list[bytes] = []
        self.waiting = 0
        self.error: Exception | None = None

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def writelines(self, commands: list[bytes]) -> None:
        if self.error is not None:
            raise self.error
        self.written += commands


class Transport:
    def __init__(self) -> None:
        self._io_writer = Writer()


def connected() -> tuple[Connection, Writer]:
    connection, transport = Connection(), Transport()
    connection._status = Client.CONNECTED
    connection._max_payload = connection._max_pending_size = 1024
    connection._flusher_task = asyncio.current_task()
    connection._flush_queue = asyncio.Queue()
    connection._transport = transport  # type: ignore[assignment]  # stands in for one
    return connection, transport._io_writer


async def written() -> None:
    """Let the passes go by after which what was sent is written."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("value", ["plain", "", "two\r\nlines", "Evil\r\nIb-Tag: 7", "\n"])
async def test_headers_sent_again_are_the_same_bytes(value: str) -> None:
    connection, writer = connected()
    headers = HEADERS | {"Ib-Note": value}
    await connection.publish("a.b", b"data", reply="c", headers=HEADERS)
    await connection.publish("a.b", b"data", reply="c", headers=headers)
    plain = Client()
    plain._status, plain._max_payload, plain._max_pending_size = Client.CONNECTED, 1024, 1024
    await plain.publish("a.b", b"data", reply="c", headers=headers)
    assert (writer.written + connection._pending)[1:] == plain._pending
    assert connection.stats == connection.stats | {"out_msgs": 2, "out_bytes": 8}


@pytest.mark.parametrize(
    "headers", [{" ": "x"}, {"": ""}, {" Ib-Odd ": " x "}, {"Ib-Odd": "a\nb"}, {"A": "1", "": "2"}]
)
async def test_odd_headers_are_written_as_nats_py_writes_them(headers: dict[str, str]) -> None:
    connection, writer = connected()
    plain = Client()
    plain._status, plain._max_payload, plain._max_pending_size = Client.CONNECTED, 1024, 1024
    for _ in range(2):  # also when they were seen before
        await connection.publish("a.b", b"data", headers=headers)
        await plain.publish("a.b", b"data", headers=headers)
    assert writer.written + connection._pending == plain._pending


async def test_a_name_that_is_none_is_refused() -> None:
    connection, _ = connected()
    with pytest.raises(BadHeaderError):
        await connection.publish("a.b", b"data", headers={"no name": "x"})
    assert connection._pending == []


async def test_what_is_sent_is_what_nats_py_would_send() -> None:
    connection, writer = connected()
    connection.send("a.b", b"data", "c")
    connection.send("a.b", b"")
    await written()
    plain = Client()
    plain._status, plain._max_payload, plain._max_pending_size = Client.CONNECTED, 1024, 1024
    await plain.publish("a.b", b"data", reply="c")
    await plain.publish("a.b", b"")
    assert writer.written == plain._pending
    assert not connection._pending


@pytest.mark.parametrize("is_quiet", [True, False])
async def test_a_connection_that_was_quiet_writes_at_the_end_of_the_pass_and_a_busy_one_collects(
    is_quiet: bool,
) -> None:
    connection, writer = connected()
    connection._wrote_at = asyncio.get_running_loop().time() + (-1.0 if is_quiet else 60.0)
    connection.send("a.b", b"data")
    assert not writer.written
    await asyncio.sleep(0)
    assert len(writer.written) == is_quiet
    await written()
    assert len(writer.written) == 1


@pytest.mark.parametrize("late", [False, True])
async def test_what_nobody_waits_for_leaves_with_the_next_message_or_soon(late: bool) -> None:
    connection, writer = connected()
    connection.send_soon("a.b", b"first")
    assert not writer.written
    if late:
        await asyncio.sleep(0.05)
        assert len(writer.written) == 1
    else:
        connection.send("a.b", b"second")
        await written()
        assert [b"first" in command for command in writer.written] == [True, False]


@pytest.mark.parametrize("status", [Client.RECONNECTING, Client.CONNECTING])
async def test_what_is_sent_while_away_waits_and_is_bounded(status: int) -> None:
    connection, writer = connected()
    connection._status = status
    connection.send("a.b", b"x" * 900)
    with pytest.raises(OutboundBufferLimitError):
        connection.send("a.b", b"x" * 900)
    await written()
    assert not writer.written
    connection._status = Client.CONNECTED
    connection.send("a.b", b"")
    await written()
    assert len(writer.written) == 2


async def test_a_server_that_does_not_read_is_left_to_the_flusher() -> None:
    connection, writer = connected()
    assert connection._flush_queue is not None
    writer.waiting = 2**21
    for _ in range(3):
        connection.send("a.b", b"data")
        await written()
    assert not writer.written
    assert len(connection._pending) == 3
    assert connection._flush_queue.qsize() == 1, "the flusher is told once"


@pytest.mark.parametrize("error", [OSError("reset"), RuntimeError("closed")])
async def test_what_a_dying_connection_did_not_take_is_kept_for_the_next(error: Exception) -> None:
    connection, writer = connected()
    seen: list[Exception] = []

    async def process_op_err(exc: Exception) -> None:
        seen.append(exc)

    connection._process_op_err = process_op_err  # type: ignore[method-assign]
    writer.error = error
    connection.send("a.b", b"data")
    await written()
    assert seen == [error]
    assert len(connection._pending) == 1


@pytest.mark.parametrize(
    ("subject", "data", "error"),
    [("", b"", BadSubjectError), ("a b", b"", BadSubjectError), ("a\r\nPUB b", b"", BadSubjectError),
     ("a", b"x" * 1025, MaxPayloadError)],
)  # fmt: skip
async def test_what_may_not_be_sent_is_refused(subject: str, data: bytes, error: type[Exception]) -> None:
    connection, writer = connected()
    for send in (connection.send, connection.send_soon):
        with pytest.raises(error):
            send(subject, data)
    connection._status = Client.CLOSED
    with pytest.raises(ConnectionClosedError):
        connection.send("a", b"")
    await written()
    assert not writer.written


async def test_a_listener_that_raises_does_not_end_the_reading() -> None:
    connection, _ = connected()
    errors: list[Exception] = []
    heard: list[bytes] = []

    async def on_error(error: Exception) -> None:
        errors.append(error)

    def handler(message: Msg) -> None:
        heard.append(message.data)
        if message.data == b"bad":
            raise ValueError("bad")

    connection._error_cb = on_error
    subscription = await connection.listen("a.b", handler)
    for data in (b"bad", b"good"):
        await connection._process_msg(subscription._id, b"a.b", b"", data, b"")
    assert heard == [b"bad", b"good"]
    assert [repr(error) for error in errors] == ["ValueError('bad')"]
    await subscription.unsubscribe()
    await connection._process_msg(subscription._id, b"a.b", b"", b"late", b"")
    assert heard == [b"bad", b"good"]
    assert not connection._handlers
