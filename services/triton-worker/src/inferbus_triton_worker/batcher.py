"""Batcher: while enough requests of a kind are with the server, those that come wait and then go as one. No timers: a request
that finds the server free goes at once, and alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from inferbus_triton_worker.domain.rows import Kind, NotDivisible, join, kind_of, split
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferCall, InferResult, Refused

log = structlog.get_logger()
Infer = Callable[[InferCall, float], Awaitable[InferResult]]


class _Waiting:
    __slots__ = ("answer", "call", "rows", "timeout_s")

    def __init__(self, call: InferCall, rows: int, timeout_s: float) -> None:
        self.call = call
        self.rows = rows
        self.timeout_s = timeout_s
        self.answer: asyncio.Future[InferResult] = asyncio.get_running_loop().create_future()


class _Line:
    """The requests of one kind: how many calls are with the server, and who waits."""

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.calls = 0
        self.waiting: deque[_Waiting] = deque()


class Batcher:
    """Joins the calls of one server. `window`: calls of a kind that are with the server before others wait, per instance
    of the model."""

    def __init__(self, infer: Infer, *, window: int = 2) -> None:
        self._infer = infer
        self._window = window
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
        if line.calls < self._window * signature.instances and not line.waiting:
            line.calls += 1
            try:
                return await self._infer(call, timeout_s)
            finally:
                self._done(kind, line, signature)
        waiting = _Waiting(call, rows, timeout_s)
        line.waiting.append(waiting)
        return await waiting.answer

    def _done(self, kind: Kind, line: _Line, signature: Signature) -> None:
        """A call is back: the next goes, with all that fit into it."""
        line.calls -= 1
        together: list[_Waiting] = []
        rows = 0
        while line.waiting:
            first = line.waiting[0]
            if first.answer.done():  # given up meanwhile
                line.waiting.popleft()
                continue
            if together and rows + first.rows > signature.max_rows:
                break
            together.append(line.waiting.popleft())
            rows += first.rows
        if together:
            line.calls += 1
            task = asyncio.create_task(self._send(kind, line, signature, together))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not line.calls:
            self._lines.pop(kind, None)

    async def _send(self, kind: Kind, line: _Line, signature: Signature, together: list[_Waiting]) -> None:
        sending = asyncio.ensure_future(self._answer_all(signature, together))
        for waiting in together:
            waiting.answer.add_done_callback(lambda _: _stop_if_unwanted(sending, together))
        try:
            await sending
        except asyncio.CancelledError:
            if not sending.cancelled():
                raise
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


def _stop_if_unwanted(sending: asyncio.Future[None], together: list[_Waiting]) -> None:
    if not sending.done() and all(waiting.answer.cancelled() for waiting in together):
        sending.cancel()
