"""The shortcut: wherever the bytes are cut, the same messages come in the same order as by nats-py's own way."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from inferbus.bus.connection import Connection

HEARD, QUEUED = 1, 2
WITH_HEADERS = b"NATS/1.0\r\nIb-Tag: 7\r\n\r\n"
STATUS = b"NATS/1.0 404 No Messages\r\n\r\n"
Seen = list[tuple[str, str, bytes, dict[str, str] | None]]


def message(sid: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bytes:
    to = b" ".join(part for part in (subject, b"%d" % sid, reply) if part)
    if headers:
        return b"HMSG %s %d %d\r\n%s%s\r\n" % (to, len(headers), len(headers) + len(data), headers, data)
    return b"MSG %s %d\r\n%s\r\n" % (to, len(data), data)


MESSAGES = st.builds(
    message,
    st.sampled_from([HEARD, HEARD, HEARD, QUEUED, 9]),
    st.sampled_from([b"a.b", b"$JS.ACK.s.c.1.2.3.4.5", b"\xff.\xfe"]),
    st.sampled_from([b"", b"_INBOX.x.1"]),
    st.sampled_from([b"", WITH_HEADERS, STATUS, b"NATS/1.0\r\n\r\n"]),
    st.sampled_from([b"", b"data", b"MSG a.b 1 4\r\n", b"\r\n", b"x" * 300]),
)


class Wire:
    """The part of a transport that reading needs."""

    def __init__(self) -> None:
        self._io_reader = asyncio.StreamReader()

    def at_eof(self) -> bool:
        return self._io_reader.at_eof()

    async def read(self, size: int) -> bytes:
        return await self._io_reader.read(size)

    def write(self, data: bytes) -> None:
        """A PONG."""


async def heard_of(pieces: list[bytes], *, shortcut: bool, pause: bool) -> Seen:
    """Say what a handler and a queue of nats-py's got from what came in these pieces."""
    connection, wire, seen = Connection(), Wire(), Seen()
    connection._status = Client.CONNECTED
    connection._transport = wire  # type: ignore[assignment]  # stands in for one
    connection._flusher_task, connection._flush_queue = asyncio.current_task(), asyncio.Queue()
    ended = asyncio.Event()

    def note(got: Msg) -> None:
        seen.append((got.subject, got.reply, got.data, got.headers))

    async def on_end(_error: Exception) -> None:
        ended.set()

    connection._process_op_err = connection._error_cb = on_end  # type: ignore[method-assign, assignment]  # the end
    assert (await connection.listen("a.b", note))._id == HEARD
    queued = await connection.subscribe("q")
    reading = asyncio.create_task(connection._read_loop() if shortcut else Client._read_loop(connection))
    await asyncio.sleep(0)
    for piece in pieces:
        wire._io_reader.feed_data(piece)
        if pause:
            await asyncio.sleep(0)
    wire._io_reader.feed_eof()
    await asyncio.wait_for(reading, 5)
    assert ended.is_set()
    while not queued._pending_queue.empty():
        note(queued._pending_queue.get_nowait())
    return seen


@given(st.lists(st.one_of(MESSAGES, st.sampled_from([b"PING\r\n", b"+OK\r\n"])), max_size=8), st.data(), st.booleans())
def test_what_comes_in_pieces_is_heard_as_by_nats_py(messages: list[bytes], data: st.DataObject, pause: bool) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True) if begin < end]
    quick = asyncio.run(heard_of(pieces, shortcut=True, pause=pause))
    assert quick == asyncio.run(heard_of([stream] if stream else [], shortcut=False, pause=True))


async def test_a_handler_is_called_in_the_call_that_brings_its_message() -> None:
    connection, wire, seen = Connection(), Wire(), []
    connection._status = Client.CONNECTED
    connection._transport = wire  # type: ignore[assignment]  # stands in for one
    connection._flusher_task, connection._flush_queue = asyncio.current_task(), asyncio.Queue()
    await connection.listen("a.b", lambda got: seen.append(got.data))
    reading = asyncio.create_task(connection._read_loop())
    await asyncio.sleep(0)
    whole = message(HEARD, b"a.b", b"", WITH_HEADERS, b"one") + message(HEARD, b"a.b", b"c", b"", b"two")
    wire._io_reader.feed_data(whole + whole[:20])
    assert seen == [b"one", b"two"]
    wire._io_reader.feed_data(whole[20:])  # behind what is not whole, all goes nats-py's way
    assert seen == [b"one", b"two"]
    await asyncio.sleep(0)
    assert seen == [b"one", b"two"] * 2
    wire._io_reader.feed_data(whole)
    assert seen == [b"one", b"two"] * 3
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
