"""Gathering: things that come one by one are done together, a batch when there are enough or some time has passed.

While as many batches run as may, what comes gathers, so that batches grow with the load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[K, list[T]], Awaitable[Sequence[R]]]


class _Queue(Generic[T, R]):
    def __init__(self) -> None:
        self.waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()
        self.weight = 0
        self.running = 0
        self.timer: asyncio.TimerHandle | None = None
        self.due = False


class Gathering(Generic[K, T, R]):
    """Batches of things with the same key. `work` gives a result for each; what it raises is everybody's. A batch weighs at most `most` (or is one thing), waits at most `wait_s`; `at_once` run of one key."""

    def __init__(self, work: Work[K, T, R], *, most: int, wait_s: float, at_once: int = 1) -> None:
        self._work = work
        self._most = most
        self._wait_s = wait_s
        self._at_once = at_once
        self._queues: dict[K, _Queue[T, R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, key: K, thing: T, weight: int = 1) -> R:
        """Have a thing done with others, and give its result."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        queue.waiting.append((thing, weight, future))
        queue.weight += weight
        self._look(key, queue)
        return await future

    async def stop(self) -> None:
        for queue in self._queues.values():
            if queue.timer is not None:
                queue.timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _look(self, key: K, queue: _Queue[T, R]) -> None:
        while queue.waiting and queue.running < self._at_once and (queue.due or queue.weight >= self._most):
            self._begin(key, queue)
        if not queue.waiting:
            queue.due = False
            if not queue.running:
                self._queues.pop(key, None)
        elif queue.timer is None and not queue.due:
            queue.timer = asyncio.get_running_loop().call_later(self._wait_s, self._on_time, key, queue)

    def _on_time(self, key: K, queue: _Queue[T, R]) -> None:
        queue.timer, queue.due = None, True
        self._look(key, queue)

    def _begin(self, key: K, queue: _Queue[T, R]) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        weight = 0
        while queue.waiting and (not batch or weight + queue.waiting[0][1] <= self._most):
            thing, one, future = queue.waiting.popleft()
            queue.weight -= one
            if not future.cancelled():  # whoever wanted it has gone
                batch.append((thing, future))
                weight += one
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        queue.running += 1
        task = asyncio.create_task(self._run(key, queue, batch), name="gathering")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: K, queue: _Queue[T, R], batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work(key, [thing for thing, _ in batch]) if batch else []
        except BaseException as error:
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        finally:
            queue.running -= 1
            queue.due = queue.due or bool(queue.waiting)  # they have waited for this one
            self._look(key, queue)


def _fail(batch: list[tuple[T, asyncio.Future[R]]], error: BaseException) -> None:
    for _, future in batch:
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        elif not future.done():
            future.set_exception(error)
