"""One connection of HTTP/1.1 against a server that says what the test has it say, in whatever pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from inferbus.testing import eventually
from inferbus_triton_worker.adapters.http_connection import HttpConnection

ASKED = b"POST /v2/models/m/infer HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nInference-Header-Content-Length: 2\r\nContent-Length: 6\r\n\r\n{}abcd"


class Said:
    """A server that answers each request with the next `pieces`, one write each; None: it hangs up."""

    def __init__(self) -> None:
        self.pieces: list[bytes | None] = []
        self.hears = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.hears.set()
                for piece in self.pieces:
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def said() -> AsyncIterator[Said]:
    said = Said()
    server = await asyncio.start_server(said.serve, "127.0.0.1", 0)
    said.port = server.sockets[0].getsockname()[1]
    async with server:
        yield said


@pytest.fixture
async def connection(said: Said) -> AsyncIterator[HttpConnection]:
    _, connection = await asyncio.get_running_loop().create_connection(HttpConnection, "127.0.0.1", said.port)
    yield connection
    connection.close()


@pytest.mark.parametrize("size", [1, 7, len(ANSWER) - 4, len(ANSWER)])
async def test_an_answer_is_whole_in_whatever_pieces_it_comes(
    said: Said, connection: HttpConnection, size: int
) -> None:
    said.pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    for _ in range(3):
        answer = await connection.ask(ASKED, 10.0)
        assert (answer.status, answer.json_bytes, answer.body) == (200, 2, b"{}abcd")
    assert not connection.closed


async def test_an_answer_without_a_body_is_one(said: Said, connection: HttpConnection) -> None:
    said.pieces = [b"HTTP/1.1 503 Service Unavailable\r\nCONTENT-LENGTH: 0\r\n\r\n"]
    answer = await connection.ask(ASKED, 0.0)
    assert (answer.status, answer.json_bytes, answer.body) == (503, 0, b"")


@pytest.mark.parametrize(
    "piece",
    [
        None,
        ANSWER + b"more",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nInference-Header-Content-Length: 2\r\n\r\n{",
        b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"x" * 70_000,
    ],
)
async def test_what_is_no_answer_ends_the_connection(
    said: Said, connection: HttpConnection, piece: bytes | None
) -> None:
    said.pieces = [piece]
    with pytest.raises(OSError, match=r"closed|no answer"):
        await connection.ask(ASKED, 10.0)
    assert connection.closed
    with pytest.raises(OSError, match="closed"):
        await connection.ask(ASKED, 10.0)


async def test_one_that_waited_in_vain_is_used_no_more(said: Said, connection: HttpConnection) -> None:
    with pytest.raises(TimeoutError):
        await connection.ask(ASKED, 0.01)
    assert connection.closed


async def test_one_that_is_cancelled_is_used_no_more(said: Said, connection: HttpConnection) -> None:
    task = asyncio.create_task(connection.ask(ASKED, 10.0))
    await said.hears.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert connection.closed


async def test_a_server_that_hangs_up_meanwhile_is_noticed(said: Said, connection: HttpConnection) -> None:
    said.pieces = [ANSWER, None]
    await connection.ask(ASKED, 10.0)
    await eventually(lambda: connection.closed)
