"""Running: rows through stages with a bounded queue in front of each, results committed as they come.

A row may be committed while others are still read. What is between reading and commit is bounded (`in_flight`), so that a
slow stage slows reading down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from inferbus.pipeline.checkpoint import DONE, DROPPED, FAILED, Checkpoint, Result
from inferbus.pipeline.formats import Row, UnreadableRow
from inferbus.pipeline.stages import Place, Stage, Tools

Source = AsyncIterator[tuple[int, Row | UnreadableRow]]
_MAX_TEXT = 2000


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`in_flight` rows at most between reading and commit; a commit every so many seconds."""

    in_flight: int
    checkpoint_every_s: float


class _Item(msgspec.Struct):
    number: int
    row: Row


class Runner:
    """Runs stages over a source once."""

    def __init__(
        self, stages: Sequence[Stage], tools: Tools, checkpoint: Checkpoint, run: str, settings: RunSettings,
        on_commit: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._stages = stages
        self._tools = tools
        self._checkpoint = checkpoint
        self._run = run
        self._settings = settings
        self._on_commit = on_commit
        self._room = asyncio.Semaphore(settings.in_flight)
        self._queues: list[asyncio.Queue[_Item | None]] = [asyncio.Queue(2 * stage.concurrency) for stage in stages]
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()  # bounded by the room

    async def run(self, source: Source) -> None:
        """Do every row that is not done yet.

        Raises:
            StorageDown: results cannot be committed; what was is not done again by the next run.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(source))
                for place, stage in enumerate(self._stages):
                    group.create_task(self._stage(place, stage))
                group.create_task(self._commit())
        except ExceptionGroup as failed:
            raise _first_of(failed) from failed

    async def _read(self, source: Source) -> None:
        async for number, row in source:
            if number in self._checkpoint.done:
                continue
            await self._room.acquire()
            if isinstance(row, UnreadableRow):
                error = {"stage": "read", "error": "unreadable", "message": row.error, "input": row.text}
                await self._results.put(Result(number, FAILED, error))
            else:
                await self._pass_on(0, _Item(number, row))
        await self._end_of(0)

    async def _pass_on(self, place: int, item: _Item) -> None:
        if place < len(self._queues):
            await self._queues[place].put(item)
        else:
            await self._results.put(Result(item.number, DONE, item.row))

    async def _end_of(self, place: int) -> None:
        """Tell a stage, or whoever commits, that nothing more comes."""
        await (self._queues[place].put(None) if place < len(self._queues) else self._results.put(None))

    async def _stage(self, place: int, stage: Stage) -> None:
        async with asyncio.TaskGroup() as workers:
            for _ in range(stage.concurrency):
                workers.create_task(self._work(place, stage))
        await self._end_of(place + 1)

    async def _work(self, place: int, stage: Stage) -> None:
        queue = self._queues[place]
        while (item := await queue.get()) is not None:
            try:
                made = await stage.apply(
                    item.row, Place(item.number, f"{self._run}-{item.number}-{place}"), self._tools
                )
            except Exception as exc:
                error = {
                    "stage": f"{place + 1} {stage.kind}", "error": getattr(exc, "code", type(exc).__name__),
                    "message": str(exc)[:_MAX_TEXT], "input": item.row,
                }  # fmt: skip
                await self._results.put(Result(item.number, FAILED, error))
                continue
            if made is None:
                await self._results.put(Result(item.number, DROPPED, {}))
            else:
                await self._pass_on(place + 1, _Item(item.number, made))
        await queue.put(None)  # for the next worker

    async def _commit(self) -> None:
        waiting: list[Result] = []
        due = time.monotonic() + self._settings.checkpoint_every_s
        ended = False
        while not ended:
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    result = await self._results.get()
                if result is None:
                    ended = True
                else:
                    waiting.append(result)
            except TimeoutError:
                pass
            if waiting and (ended or time.monotonic() >= due or len(waiting) >= self._settings.in_flight // 2):
                await self._checkpoint.commit(waiting)
                self._on_commit(len(waiting))
                for _ in waiting:
                    self._room.release()
                waiting = []
            if time.monotonic() >= due:
                due = time.monotonic() + self._settings.checkpoint_every_s


def _first_of(error: Exception) -> Exception:
    return _first_of(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
