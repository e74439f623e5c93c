"""Running: batches of rows through stages with a bounded queue in front of each, results committed as they come.

A row may be committed while others are still read. What is between reading and commit is bounded (`in_flight`), so that a
slow stage slows reading down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from inferbus.pipeline.checkpoint import Checkpoint, Results
from inferbus.pipeline.sources import Blocks, Unread
from inferbus.pipeline.stage_run import Batch, Lost, StageRun
from inferbus.pipeline.stages import Stage, Tools

_BATCHES, _BATCH_ROWS = 8, 128
"""What may be in flight is so many batches at least, none larger than that."""


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`in_flight` rows at most between reading and commit; a commit every so many seconds."""

    in_flight: int
    checkpoint_every_s: float


class Runner:
    """Runs stages over a source once."""

    def __init__(
        self, stages: Sequence[Stage], tools: Tools, checkpoint: Checkpoint, run: str, settings: RunSettings,
        on_commit: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._checkpoint = checkpoint
        self._settings = settings
        self._on_commit = on_commit
        self._at_once = max(1, min(_BATCH_ROWS, settings.in_flight // _BATCHES))
        self._room = asyncio.Semaphore(settings.in_flight)
        self._results: asyncio.Queue[Batch | Lost | None] = asyncio.Queue()  # bounded by the room
        self._stages: list[StageRun] = []
        put: Callable[[Batch | None], Awaitable[None]] = self._results.put
        for place in reversed(range(len(stages))):
            made = StageRun(
                stages[place], place, run, tools, at_once=self._at_once, put=put, lose=self._results.put
            )  # fmt: skip
            self._stages.insert(0, made)
            put = made.inbox.put
        self._first = put

    async def run(self, source: Blocks) -> None:
        """Do every row that is not done yet.

        Raises:
            StorageDown: results cannot be committed; what was is not done again by the next run.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(source))
                for stage in self._stages:
                    group.create_task(stage.run())
                group.create_task(self._commit())
        except ExceptionGroup as failed:
            raise _first_of(failed) from failed

    async def _read(self, source: Blocks) -> None:
        done, block = self._checkpoint.done, 0
        async for read in source:
            if isinstance(read, Unread):
                if read.number not in done:
                    await self._room.acquire()
                    error = {"stage": "read", "error": "unreadable", "message": read.row.error, "input": read.row.text}
                    await self._results.put(Lost(read.number, error))
                continue
            self._checkpoint.check_block(block, read.rows)
            block += 1
            places = [n for n, number in enumerate(read.numbers) if number not in done]
            numbers, rows = [read.numbers[n] for n in places], read.rows.take(places)
            for start in range(0, rows.count, self._at_once):
                part = rows.slice(start, self._at_once)
                for _ in range(part.count):
                    await self._room.acquire()
                await self._first(Batch(numbers[start : start + part.count], part))
        await self._first(None)

    async def _commit(self) -> None:
        waiting = Results()
        due = time.monotonic() + self._settings.checkpoint_every_s
        ended = False
        while not ended:
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    result = await self._results.get()
                ended = result is None
                waiting.add(result)
            except TimeoutError:
                pass
            if waiting.count and (ended or time.monotonic() >= due or waiting.count >= self._settings.in_flight // 2):
                await self._checkpoint.commit(waiting)
                self._on_commit(waiting.count)
                for _ in range(waiting.count):
                    self._room.release()
                waiting = Results()
            if time.monotonic() >= due:
                due = time.monotonic() + self._settings.checkpoint_every_s


def _first_of(error: Exception) -> Exception:
    return _first_of(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
