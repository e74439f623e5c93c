"""Connection: headers read as nats-py reads them, and messages that wait for the next one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from inferbus.connection import Connection

ODD = st.sampled_from([
    b"Name: value", b"Name:value", b"Name:\tvalue ", b" Name : value", b"Na me: value", b"no colon", b": no name", b"",
    b"Name: ", b"Name: a: b", b"N\xc3\xa4me: value", b"Name: v\xc3\xa4lue", b"Name: \xff\xfe", b"Na\tme: value",
])  # fmt: skip


@given(st.lists(ODD, max_size=6))
def test_headers_are_read_as_nats_py_reads_them(lines: list[bytes]) -> None:
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    assert Connection._parse_header_lines(raw) == Client._parse_header_lines(raw)


HEADERS = {"Ib-Request": "r", "Nats-Msg-Id": "dev:r", "Ib-Note": "ä"}


def connected() -> Connection:
    connection = Connection()
    connection._status = Client.CONNECTED
    connection._max_payload = connection._max_pending_size = 1024
    connection._flusher_task = asyncio.current_task()
    connection._flush_queue = asyncio.Queue()
    return connection


@pytest.mark.parametrize("value", ["plain", "", "two\r\nlines", "Evil\r\nIb-Tag: 7", "\n"])
async def test_headers_sent_again_are_the_same_bytes(value: str) -> None:
    connection = connected()
    headers = HEADERS | {"Ib-Note": value}
    await connection.publish("a.b", b"data", reply="c", headers=HEADERS)
    await connection.publish("a.b", b"data", reply="c", headers=headers)
    plain = Client()
    plain._status, plain._max_payload, plain._max_pending_size = Client.CONNECTED, 1024, 1024
    await plain.publish("a.b", b"data", reply="c", headers=headers)
    assert connection._pending[1:] == plain._pending
    assert connection.stats == connection.stats | {"out_msgs": 2, "out_bytes": 8}


@pytest.mark.parametrize("late", [False, True])
async def test_what_nobody_waits_for_leaves_with_the_next_message_or_soon(late: bool) -> None:
    connection = connected()
    queue = connection._flush_queue
    assert queue is not None
    await connection.publish_soon("a.b", b"first")
    assert queue.empty()
    if late:
        await queue.get()  # the flusher is told after 2 ms
    else:
        await connection.publish("a.b", b"second")
        assert not queue.empty()
    assert [b"first" in command for command in connection._pending] == ([True] if late else [True, False])
