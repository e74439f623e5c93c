"""How the command line talks to the supervisor of a state folder: a socket in it, open to its owner alone.

Not the bus, which may be what is to be restarted. One connection, one command: a line of JSON in, lines of JSON out, the
last of which says how it ended. Who hangs up early only hears no more; the command goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger()


class Restart(msgspec.Struct, frozen=True, kw_only=True, tag="local.restart.v1"):
    """Restart these processes; all of them, one after the other, where none is named."""

    names: list[str] = []


class Reload(msgspec.Struct, frozen=True, kw_only=True, tag="local.reload.v1"):
    """Have the bus server read its configuration again: its users changed."""


Command = Restart | Reload


class Said(msgspec.Struct, frozen=True, kw_only=True, tag="local.said.v1"):
    """One line for the user. The last one is `over`, with `error` where the command failed."""

    text: str = ""
    over: bool = False
    error: bool = False


Handle = Callable[[Command, Callable[[str], None]], Awaitable[None]]


class CommandFailed(Exception):
    """What was asked for cannot be done; the message is for the user."""


class NobodyListens(Exception):
    """There is no supervisor, or it ended before the command was done."""


class CommandSocket:
    """The supervisor's end. `handle` carries a command out, and says what it does."""

    def __init__(self, path: Path, handle: Handle) -> None:
        self._path = path
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)  # of a supervisor that was killed
        listener = socket.socket(socket.AF_UNIX)
        with _short(self._path) as address:
            listener.bind(address)
        self._server = await asyncio.start_unix_server(self._on_connection, sock=listener)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # for the type checker
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(text: str, *, over: bool = False, error: bool = False) -> None:
            if not writer.is_closing():
                writer.write(msgspec.json.encode(Said(text=text, over=over, error=error)) + b"\n")

        try:
            asked = msgspec.json.decode(await reader.readline(), type=Command)
            await self._handle(asked, say)
        except msgspec.DecodeError as exc:
            say(f"this supervisor does not know the command: {exc}", over=True, error=True)
        except CommandFailed as exc:
            say(str(exc), over=True, error=True)
        except asyncio.CancelledError:
            say("the platform is stopping", over=True, error=True)
            raise
        except Exception as exc:  # a bug must not leave the caller waiting
            log.exception("command_failed")
            say(f"failed: {exc!r}", over=True, error=True)
        else:
            say("", over=True)
        with contextlib.suppress(ConnectionError):  # nobody listens any more
            await writer.drain()


async def command(path: Path, asked: Command) -> AsyncIterator[Said]:
    """Send a command to the supervisor and give what it says, to the end.

    Raises:
        NobodyListens: it is not there, or ended meanwhile.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        with _short(path) as address:
            await asyncio.get_running_loop().sock_connect(connection, address)
    except OSError as exc:
        connection.close()
        raise NobodyListens(f"the supervisor does not answer at {path}") from exc
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        writer.write(msgspec.json.encode(asked) + b"\n")
        while line := await reader.readline():
            said = msgspec.json.decode(line, type=Said)
            yield said
            if said.over:
                return
        raise NobodyListens("the supervisor ended before it was done")
    finally:
        writer.close()


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give an address for a socket in a folder of any depth: addresses have 108 bytes at most, paths do not."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
