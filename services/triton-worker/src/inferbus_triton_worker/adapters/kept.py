"""A server with a keeper (`keeper`), as its owner has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from inferbus_triton_worker.adapters import keeper, leftovers

_PACKAGES = str(Path(__file__).parents[2])
KILLED = -9


class KeptProcess:
    """One run of a server. Make it with `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process, prefix: str) -> None:
        self._process = process
        self._prefix = prefix
        self._status: int | None = None
        self.pid = 0
        """The server's; 0 before it runs and when it has ended."""
        self.ended = asyncio.create_task(self._listen(), name="triton-keeper")
        """Completes with the server's status (negative: the signal), when nothing of it is left."""

    @property
    def keeper(self) -> int:
        """The keeper's process."""
        return self._process.pid

    def ask_to_end(self) -> None:
        """Have the server told to end; it may take its time."""
        self.tell(keeper.STOP)

    def kill(self) -> None:
        """Have everything killed and removed."""
        if (pipe := self._process.stdin) is not None:
            pipe.close()

    def tell(self, what: bytes) -> None:
        if (pipe := self._process.stdin) is not None and not pipe.is_closing():
            pipe.write(what)

    async def _listen(self) -> int:
        """Hear what the keeper says, to its end."""
        output = self._process.stdout
        assert output is not None  # noqa: S101  # for the type checker
        with contextlib.suppress(ConnectionError):
            async for line in output:
                what, _, number = line.decode().partition(" ")
                if what == "pid":
                    self.pid = int(number)
                elif what == "ended":
                    self._status = int(number)
        await self._process.wait()
        self.pid = 0
        self.kill()
        if self._status is None:  # it was killed itself, and the server by the kernel
            await asyncio.to_thread(leftovers.clear_unkept, self._prefix)
            return KILLED
        return self._status


async def spawn(argv: Sequence[str], env: Mapping[str, str], folder: Path, prefix: str, log: IO[bytes]) -> KeptProcess:
    """Start a server in `folder`, and with it its keeper. Both write to `log`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", keeper.LAUNCH, _PACKAGES,
        env={"PATH": os.defpath},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )  # fmt: skip
    kept = KeptProcess(process, prefix)
    order = {"argv": list(argv), "env": dict(env), "folder": str(folder), "prefix": prefix}
    kept.tell(json.dumps(order).encode() + b"\n")
    return kept
