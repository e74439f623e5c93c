"""One process of a target: in a session of its own, with a log, gone when this program is, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_GRACE_S = 45.0
_TAIL_BYTES = 3000


class Process:
    """Started by `async with`, stopped at its end: SIGTERM, patience, then SIGKILL for the whole group."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path, folder: Path) -> None:
        self._argv = argv
        self._env = env
        self._log = log
        self._folder = folder
        self._libc = ctypes.CDLL(None)
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self._folder, start_new_session=True, preexec_fn=self._die_with_parent,
            )  # fmt: skip
        self.pid = self._process.pid
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _GRACE_S)
        with contextlib.suppress(ProcessLookupError):  # what it left behind in its group
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def log_tail(self) -> str:
        """Give the end of its log."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def _die_with_parent(self) -> None:  # runs in the child, between fork and exec
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
