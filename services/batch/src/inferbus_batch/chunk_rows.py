"""ChunkRows: the rows of a chunk on their way, so many at once: in groups as long as all is ordinary, else each by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from inferbus import routes
from inferbus.batch.lines import Row
from inferbus.contracts.durable import Outcome
from inferbus_batch.asking import Asking, Given
from inferbus_batch.domain.row_end import RowEnd, is_of_the_moment
from inferbus_batch.groups import Ends, Groups, Left, grouped
from inferbus_batch.metrics import BatchMetrics


class ChunkRows:
    """`ask` once. `at_once` rows are in flight, `group_rows` of them in one message at most. `attempt` is the chunk's delivery,
    `ends` is filled as rows end."""

    def __init__(
        self, asking: Asking, groups: Groups, metrics: BatchMetrics, given: Given, ends: dict[int, RowEnd], *,
        chunk: int, attempt: int, at_once: int, group_rows: int,
    ) -> None:  # fmt: skip
        self._asking = asking
        self._groups = groups
        self._metrics = metrics
        self._given = given
        self._gate = given.gate
        self._ends = ends
        self._names = (routes.group_request(given.job.id, chunk, attempt, n) for n in itertools.count())
        self._group_rows = max(1, min(group_rows, at_once // 2))
        self._room = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._failures: list[BaseException] = []
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, rows: Sequence[Row], left: Left) -> None:
        """Ask rows until all have an end or the gate is shut; what is `left` of earlier deliveries is taken up first.

        Raises: whatever kept a row from being asked.
        """
        by_line = {row.line: row for row in rows}
        try:
            await self._take_up(left, by_line)
            await self._ask_new([row for row in rows if row.line not in left.lines])
            while self._running:
                await asyncio.wait(self._running)
        except asyncio.CancelledError:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            raise
        if self._failures:
            raise self._failures[0]

    async def _take_up(self, left: Left, rows: Mapping[int, Row]) -> None:
        for line, outcome in left.outcomes.items():
            if line in rows:
                await self._begin([rows[line]], partial(self._one, rows[line], outcome, taken=True))
        for group_id, lines in left.queued.items():
            group = [rows[line] for line in sorted(lines & rows.keys())]
            await self._begin(group, partial(self._group, group, group_id))

    async def _ask_new(self, rows: Iterable[Row]) -> None:
        """Group what was never asked; what was asked by itself before is asked so again."""
        begun = await self._asking.begun(self._given, [row.line for row in rows])
        alone, fresh = [row for row in rows if row.line in begun], [row for row in rows if row.line not in begun]
        for group in itertools.chain(([row] for row in alone), grouped(fresh, self._group_rows)):
            await self._begin(group, partial(self._one, group[0]) if len(group) == 1 else partial(self._group, group))

    async def _begin(self, rows: Sequence[Row], work: Callable[[], Awaitable[None]]) -> None:
        """Run something for rows as soon as they have room, unless the gate is shut by then."""
        room = min(len(rows), self._at_once)
        for _ in range(room):
            await self._room.acquire()

        async def run() -> None:
            self._metrics.in_flight.inc(len(rows))
            try:
                if not self._gate.is_shut:
                    await work()
            except Exception as error:
                self._failures.append(error)
                self._gate.hold("failed")
            finally:
                self._metrics.in_flight.dec(len(rows))
                for _ in range(room):
                    self._room.release()

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _one(self, row: Row, first: Outcome | None = None, *, taken: bool = False) -> None:
        end = await self._asking.end_of(self._given, row, first, taken=taken)
        if end is not None:
            self._ends[row.line] = end

    async def _group(self, rows: Sequence[Row], queued: str = "") -> None:
        """Ask rows in one message (or wait for the one of an earlier delivery), and again what it did nothing for."""
        if queued:
            ends = await self._groups.taken_up(self._given, queued, [row.line for row in rows])
        else:
            ends = await self._groups.ends_of(self._given, rows, next(self._names))
        again = [row for row in rows if row.line in ends.not_begun]
        works = [self._one(row, first, taken=bool(queued)) for row, first in self._not_ended(rows, ends, bool(queued))]
        if len(again) > 1:
            works.append(self._group(again))
        else:
            works += [self._one(row) for row in again]
        await asyncio.gather(*works)

    def _not_ended(self, rows: Iterable[Row], ends: Ends, taken: bool) -> list[tuple[Row, Outcome | None]]:
        """Note the ends of rows that came to one; gives the others that are to be asked by themselves, with what came of
        them the first time."""
        left: list[tuple[Row, Outcome | None]] = []
        for row in rows:
            outcome = ends.outcomes.get(row.line)
            if outcome is not None and not is_of_the_moment(outcome):
                request_id = routes.line_request(self._given.job.id, row.line)
                self._ends[row.line] = RowEnd(request_id=request_id, outcome=outcome, taken=taken)
            elif outcome is not None or not (ends.is_open or row.line in ends.not_begun):
                left.append((row, outcome))
        return left
