"""Batcher: what comes in one pass of the event loop goes as one, and while a call of its kind is with the server, what comes
waits for its end. No timers: a request that finds nobody else goes at once, and alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from inferbus_triton_worker.domain.rows import Kind, NotDivisible, join, kind_of, split
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferCall, InferResult, Refused

log = structlog.get_logger()
Infer = Callable[[InferCall, float], Awaitable[InferResult]]


class _Waiting:
    """`answer` comes with None where it is to go alone, by itself."""

    __slots__ = ("answer", "call", "goes_alone", "rows", "timeout_s")

    def __init__(
        self, call: InferCall, rows: int, timeout_s: float, answer: asyncio.Future[InferResult | None]
    ) -> None:
        self.call = call
        self.rows = rows
        self.timeout_s = timeout_s
        self.goes_alone = False
        self.answer = answer


class _Line:
    """The requests of one kind: how many calls are with the server, who waits, and with how many rows."""

    __slots__ = ("calls", "is_due", "rows", "waiting")

    def __init__(self) -> None:
        self.calls = self.rows = 0
        self.is_due = False
        self.waiting: deque[_Waiting] = deque()

    def add(self, waiting: _Waiting) -> None:
        self.waiting.append(waiting)
        self.rows += waiting.rows

    def take(self, max_rows: int) -> list[_Waiting]:
        """Take those who go next, as many as fit into one call."""
        together: list[_Waiting] = []
        rows = 0
        while self.waiting:
            first = self.waiting[0]
            if together and rows + first.rows > max_rows and not first.answer.done():
                break
            self.waiting.popleft()
            self.rows -= first.rows
            if not first.answer.done():  # else given up meanwhile
                together.append(first)
                rows += first.rows
        return together


class Batcher:
    """Joins the calls of one server. Of a kind, one call per instance of the model is with the server before others wait;
    of calls that are full, `full` times as many. `is_alone` says that nobody else is being served."""

    def __init__(self, infer: Infer, *, full: int = 2, is_alone: Callable[[], bool] = lambda: False) -> None:
        self._infer = infer
        self._loop = asyncio.get_running_loop()
        self._full = full
        self._is_alone = is_alone
        self._lines: dict[Kind, _Line] = {}
        self._whole: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    async def infer(self, signature: Signature, call: InferCall, rows: int, timeout_s: float) -> InferResult:
        """Call alone or with others. Raises what `infer` does, or what it refused this very call with."""
        kind = kind_of(call) if signature.can_be_joined and call.model not in self._whole else None
        if kind is None:
            return await self._infer(call, timeout_s)
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = _Line()
        if line.calls or line.waiting or not self._is_alone():
            waiting = _Waiting(call, rows, timeout_s, self._loop.create_future())
            line.add(waiting)
            if not line.is_due and self._may_go(line, signature):
                line.is_due = True
                self._loop.call_soon(self._go, kind, line, signature)
            try:
                answer = await waiting.answer
            except asyncio.CancelledError:
                if waiting.goes_alone:  # it had been told to go, and did not
                    self._done(kind, line, signature)
                raise
            if answer is not None:
                return answer
        else:
            line.calls += 1
        try:
            return await self._infer(call, timeout_s)
        finally:
            self._done(kind, line, signature)

    def _may_go(self, line: _Line, signature: Signature) -> bool:
        if line.calls < signature.instances:
            return True
        return line.rows >= signature.max_rows and line.calls < self._full * signature.instances

    def _go(self, kind: Kind, line: _Line, signature: Signature) -> None:
        """Send what waits, as far as it may go."""
        line.is_due = False
        while self._may_go(line, signature):
            together = line.take(signature.max_rows)
            if not together:
                break
            line.calls += 1
            if len(together) == 1:
                together[0].goes_alone = True
                together[0].answer.set_result(None)
                continue
            task = self._loop.create_task(self._send(kind, line, signature, together))
            stop = partial(_stop_if_unwanted, task, together)
            for waiting in together:
                waiting.answer.add_done_callback(stop)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not line.calls and not line.waiting and self._lines.get(kind) is line:
            del self._lines[kind]

    def _done(self, kind: Kind, line: _Line, signature: Signature) -> None:
        """A call is back: the next goes, with all that fit into it."""
        line.calls -= 1
        self._go(kind, line, signature)

    async def _send(self, kind: Kind, line: _Line, signature: Signature, together: list[_Waiting]) -> None:
        try:
            await self._answer_all(signature, together)
        finally:
            for waiting in together:
                if not waiting.answer.done():
                    waiting.answer.cancel()
            self._done(kind, line, signature)

    async def _answer_all(self, signature: Signature, together: list[_Waiting]) -> None:
        unlimited = not all(waiting.timeout_s for waiting in together)
        timeout_s = 0.0 if unlimited else max(waiting.timeout_s for waiting in together)
        try:
            result = await self._infer(join([waiting.call for waiting in together]), timeout_s)
            parts = split(result, [waiting.rows for waiting in together])
        except Refused as exc:
            if len(together) == 1:
                _fail(together, exc)
            else:  # one of them is at fault
                await asyncio.gather(*(self._answer_all(signature, [waiting]) for waiting in together))
        except NotDivisible as exc:
            log.warning("not_joined_any_more", model=signature.name, reason=str(exc))
            self._whole.add(together[0].call.model)
            await asyncio.gather(*(self._answer_all(signature, [waiting]) for waiting in together))
        except Exception as exc:
            _fail(together, exc)
        else:
            for waiting, part in zip(together, parts, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(part)


def _fail(together: list[_Waiting], error: Exception) -> None:
    for waiting in together:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)


def _stop_if_unwanted(sending: asyncio.Task[None], together: list[_Waiting], _: object) -> None:
    if not sending.done() and all(waiting.answer.cancelled() for waiting in together):
        sending.cancel()
