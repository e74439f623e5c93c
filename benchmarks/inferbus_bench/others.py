"""Other programs: what the machine did besides measuring, and the lines that say so above every result."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Self

from inferbus_bench.cpu import busy_seconds, cpu_of
from inferbus_bench.machine import describe_machine, describe_versions

_STEP_S = 5.0


class OtherPrograms:
    """Watches while it is entered. `cores`: how many were busy with neither this program nor what it started, at worst, in
    steps of some seconds."""

    def __init__(self) -> None:
        self._roots = {"ours": os.getpid()}
        self._task: asyncio.Task[None] | None = None
        self.cores = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            began, before = await asyncio.to_thread(self._look)
            await asyncio.sleep(_STEP_S)
            ended, after = await asyncio.to_thread(self._look)  # what is measured may run on this loop
            self.cores = max(self.cores, (after - before) / (ended - began))

    def _look(self) -> tuple[float, float]:
        return time.monotonic(), self._seconds()

    def _seconds(self) -> float:
        return busy_seconds() - sum(cpu_of(self._roots).values())


def heading(other_cores: float, program: str, arguments: Sequence[str] | None = None) -> str:
    """Give what stands above a result in RESULTS.md: date, command, machine, versions, and what disturbed it."""
    command = ["python", f"benchmarks/{program}", *(sys.argv[1:] if arguments is None else arguments)]
    about = [
        f"Command: `{shlex.join(command)}`",
        f"Machine: {describe_machine()}",
        f"Versions: {describe_versions()}",
        f"Other programs took up to {other_cores:.2f} cores meanwhile.",
    ]
    return f"## {dt.datetime.now().astimezone().date()}\n\n" + "  \n".join(about)
