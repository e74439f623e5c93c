"""Child: a process of this service that does what must not disturb its event loop; it ends when this one does.

It is told what to do on its standard input, whose end means that it is to stop, and tells what it has done line by line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator

_GRACE_S = 5.0
_LINE_BYTES = 1024 * 1024


class Child:
    """Made by `start_child`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def lines(self) -> AsyncIterator[bytes]:
        """Give what it tells until it ends."""
        assert self._process.stdout is not None  # noqa: S101 - `start_child` asked for it
        async for line in self._process.stdout:
            yield line

    async def wait(self) -> int:
        """Wait for its end; gives its exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, and see to it."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None  # noqa: S101 - `start_child` asked for it
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def start_child(module: str, order: bytes) -> Child:
    """Start `python -m module` with what it is to do: one line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES,
        start_new_session=True, # what the terminal sends is for its parent, which tells it
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 - asked for above
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end tells
        process.stdin.write(order + b"\n")
        await process.stdin.drain()
    return Child(process)


class Orders:
    """The child's side: its order, and whether it is to stop."""

    def __init__(self) -> None:
        self.order = sys.stdin.buffer.readline()
        self._ended = threading.Event()
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def stopping(self) -> bool:
        return self._ended.is_set()

    def tell(self, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()

    def _wait_for_end(self) -> None:
        while os.read(0, 4096):  # not through sys.stdin, whose lock Python wants at its end
            pass
        self._ended.set()
