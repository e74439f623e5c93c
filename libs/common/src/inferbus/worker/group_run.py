"""GroupRun: the rows of one message, each a request to the engine as soon as it has a slot; together one outcome.

What is not ordinary leaves the group: a row whose engine died, or that came back by an error of ours, is given back, for
its asker to ask it by itself. So deaths, retries and dead letters of rows are those of any request (docs/adr/0021-row-groups.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from inferbus.contracts.durable import Outcome
from inferbus.contracts.groups import (
    ABORTED,
    ANSWERED,
    FENCED,
    GIVEN_BACK,
    NOT_BEGUN,
    ROWS_TYPE,
    GroupRow,
    RowAnswer,
    answers_to,
)
from inferbus.contracts.step import Cached, Done, Ids, Usage
from inferbus.errors import EngineDead, InferbusError
from inferbus.queue.delivery import Delivery
from inferbus.worker.ports import Engine, Sink, Work


class GroupRun:
    """`run` it once; `stop` ends it early, at any time. `answers` has what became of rows, in the order of their ends."""

    def __init__(
        self, engine: Engine, rows: Sequence[GroupRow], delivery: Delivery, *, is_fenced: bool = False
    ) -> None:
        """`is_fenced`: a later delivery of its chunk asks these rows."""
        self._is_fenced = is_fenced
        self._engine = engine
        self._rows = rows
        self._delivery = delivery
        self._received = time.monotonic()
        self._stopped = self._is_dead = False
        self._running: set[str] = set()
        self.answers: list[RowAnswer] = []

    async def run(self, work: Work, sink: Sink) -> None:
        """Run the rows, and end the group's sink. `work` is the group's: its rows' but for key, id, body and bound. A group
        that is delivered again runs no row: it may be what ended its worker."""
        if self._is_fenced:
            self.answers += [RowAnswer(row.request_id, FENCED) for row in self._rows]
        elif self._delivery.attempt > 1:
            self.answers += [RowAnswer(row.request_id, GIVEN_BACK) for row in self._rows]
        else:
            await self._run_rows(work)
        sink.finished(200, self.usage, answers_to(self.answers), ROWS_TYPE)

    def stop(self) -> None:
        """Begin no row any more, and abort what runs."""
        self._stopped = True
        for key in list(self._running):
            self._engine.abort(key)

    @property
    def usage(self) -> Usage:
        """What all rows took."""
        usages = [answer.usage for answer in self.answers]
        return Usage(
            sum([usage.prompt_tokens for usage in usages]),
            sum([usage.completion_tokens for usage in usages]),
            sum([usage.cached_tokens for usage in usages]),
        )

    def outcome(self) -> Outcome:
        """Give the outcome of a group that ended early: what its rows have come to by now."""
        ended = {answer.request_id for answer in self.answers}
        rest = [RowAnswer(row.request_id, GIVEN_BACK) for row in self._rows if row.request_id not in ended]
        return Outcome(
            status=200, usage=self.usage, content_type=ROWS_TYPE, body=answers_to([*self.answers, *rest])
        )  # fmt: skip

    async def _run_rows(self, work: Work) -> None:
        slots = self._delivery.slots
        if slots is None:
            raise InferbusError("a group came where there are no slots for its rows")
        turns = [slots.want() for _ in self._rows]
        self._delivery.free_slot()  # its own: every row has another
        tasks = [asyncio.create_task(self._row(work, n, turn)) for n, turn in enumerate(turns)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _row(self, work: Work, n: int, turn: asyncio.Future[bool]) -> None:
        row, answer = self._rows[n], None
        try:
            if await turn and not self._stopped and not self._is_dead:
                answer = await self._answer(work, row, f"{work.key}.{n}")
        finally:
            self._delivery.rows -= 1
            if turn.done() and not turn.cancelled() and turn.result() and self._delivery.slots is not None:
                self._delivery.slots.give()
        self.answers.append(answer or RowAnswer(row.request_id, NOT_BEGUN))

    async def _answer(self, work: Work, row: GroupRow, key: str) -> RowAnswer:
        """Run one row in the engine."""
        begun = time.monotonic()
        work = msgspec.structs.replace(
            work, key=key, request_id=row.request_id, body=row.body, bound=row.bound, created=int(time.time())
        )
        sink = _RowSink()
        self._running.add(key)
        try:
            await self._engine.submit(work, sink)
            error = await sink.done
        except InferbusError as exc:
            error = exc
        except asyncio.CancelledError:
            self._engine.abort(key)
            raise
        finally:
            self._running.discard(key)
        waited_s, engine_s = begun - self._received, time.monotonic() - begun
        if error is None:
            return RowAnswer(
                row.request_id, ANSWERED, sink.status, sink.usage, sink.data, sink.content_type, waited_s, engine_s
            )  # fmt: skip
        if self._stopped:
            return RowAnswer(row.request_id, ABORTED, usage=sink.usage, waited_s=waited_s, engine_s=engine_s)
        if isinstance(error, EngineDead):
            self._is_dead = True  # the others are about to hear it too; what has not begun may go elsewhere
        return RowAnswer(row.request_id, GIVEN_BACK)


class _RowSink:
    """Where the engine puts the answer of one row."""

    __slots__ = ("content_type", "data", "done", "status", "usage")

    def __init__(self) -> None:
        self.status = 0
        self.usage = Usage()
        self.data = b""
        self.content_type = ""
        self.done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        """Nobody reads a row while it is made."""

    def finished(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        self.status, self.usage, self.data, self.content_type = status, usage, data, content_type
        self._end(None)

    def failed(self, error: BaseException, spent: Usage | None = None) -> None:
        self.usage = spent or Usage()
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if not self.done.done():
            self.done.set_result(error)
