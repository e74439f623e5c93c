"""StageRun: one stage at work. Batches come in, their rows are done so many at once, and go on in batches as they end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec

from inferbus.pipeline.row_batch import Row, RowBatch, joined, of_rows
from inferbus.pipeline.stages import Place, Stage, Tools

_MAX_TEXT = 2000


class Batch(msgspec.Struct, frozen=True):
    """Rows on their way, and their numbers in the input."""

    numbers: list[int]
    rows: RowBatch


class Lost(msgspec.Struct, frozen=True):
    """A row that goes no further: what was wrong with it (`DeadRow` of pipelines), or None where it was dropped."""

    number: int
    error: Row | None


class _Turn(msgspec.Struct):
    """A row's turn: where it is in which batch, what a stage needs of it, and what that made."""

    batch: Batch
    at: int
    row: Row
    made: Row


Inbox = asyncio.Queue[Batch | None]
"""None: nothing more comes."""


class StageRun:
    """`run` it until nothing more comes. `put` hands on what is done, `lose` says what goes no further."""

    def __init__(
        self, stage: Stage, place: int, run: str, tools: Tools, *, at_once: int, put: Callable[[Batch | None], Awaitable[None]],
        lose: Callable[[Lost], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.inbox: Inbox = asyncio.Queue(1)
        self._stage, self._place, self._run, self._tools = stage, place, run, tools
        self._at_once = at_once
        self._put, self._lose = put, lose
        self._turns: asyncio.Queue[_Turn | None] = asyncio.Queue(stage.concurrency)
        self._made: asyncio.Queue[_Turn | None] = asyncio.Queue(2 * stage.concurrency)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed())
            group.create_task(self._hand_on())
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._stage.concurrency):
                    workers.create_task(self._work())
            await self._made.put(None)

    async def _feed(self) -> None:
        while (batch := await self.inbox.get()) is not None:
            for at, row in enumerate(batch.rows.rows(self._stage.reads)):
                await self._turns.put(_Turn(batch, at, row, {}))
        await self._turns.put(None)

    async def _work(self) -> None:
        while (turn := await self._turns.get()) is not None:
            number = turn.batch.numbers[turn.at]
            place = Place(number, f"{self._run}-{number}-{self._place}")
            try:
                made = await self._stage.apply(turn.row, place, self._tools)
            except Exception as exc:
                await self._lose(Lost(number, error_of(exc, self._stage, self._place, turn.batch.rows.row(turn.at))))
                continue
            if made is None:
                await self._lose(Lost(number, None))
            else:
                turn.made = made
                await self._made.put(turn)
        await self._turns.put(None)  # for the next worker

    async def _hand_on(self) -> None:
        """Put together what ended meanwhile: one row where the next stage waits for it, many where it is slower."""
        ended = False
        while not ended:
            turns = []
            turn = await self._made.get()
            while turn is not None:
                turns.append(turn)
                if self._made.empty() or len(turns) >= self._at_once:
                    break
                turn = self._made.get_nowait()
            ended = turn is None
            for batch in self._together(turns):
                await self._put(batch)
        await self._put(None)

    def _together(self, turns: list[_Turn]) -> Iterator[Batch]:
        if self._stage.replaces:
            for places, rows in of_rows([turn.made for turn in turns]):
                yield Batch([turns[n].batch.numbers[turns[n].at] for n in places], rows)
            return
        alike: dict[object, list[Batch]] = {}
        for batch in _kept(turns):
            names, odd, schema = batch.rows.shape
            alike.setdefault((names, odd, str(schema)), []).append(batch)
        for batches in alike.values():
            numbers = [number for one in batches for number in one.numbers]
            yield Batch(numbers, joined([one.rows for one in batches]))


def _kept(turns: Iterable[_Turn]) -> Iterator[Batch]:
    """Give the rows that go on as they were, each with what it was given besides."""
    of_batch: dict[tuple[int, tuple[str, ...]], list[_Turn]] = {}
    for turn in turns:
        of_batch.setdefault((id(turn.batch), tuple(turn.made)), []).append(turn)
    for (_, names), ours in of_batch.items():
        source = ours[0].batch
        rows = source.rows.take([turn.at for turn in ours])
        if names:
            rows = rows.with_columns({name: [turn.made[name] for turn in ours] for name in names})
        yield Batch([source.numbers[turn.at] for turn in ours], rows)


def error_of(error: Exception, stage: Stage, place: int, row: Row) -> Row:
    """Say what was wrong with a row, where."""
    return {
        "stage": f"{place + 1} {stage.kind}", "error": getattr(error, "code", type(error).__name__),
        "message": str(error)[:_MAX_TEXT], "input": row,
    }  # fmt: skip
