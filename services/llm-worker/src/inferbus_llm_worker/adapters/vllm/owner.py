"""The thread that owns an engine.

Importing vLLM and starting an engine block for seconds, so they happen here and not on the event loop. It must be
one thread that lives as long as the engine: the engine's processes are told to die with the *thread* that started
them (PR_SET_PDEATHSIG, see `plugin`).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class OwnerThread:
    """Runs functions one after the other in a daemon thread until closed."""

    def __init__(self, name: str) -> None:
        self._others = {process.pid for process in multiprocessing.active_children()}
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run `function` in the thread; what it raises is raised to whoever awaits."""
        job: Future[T] = Future()
        self._jobs.put((job, function))
        return asyncio.wrap_future(job)

    def kill_processes(self) -> None:
        """SIGKILL the processes started since this thread is; one that is stopped or still loading dies of it, too."""
        for process in multiprocessing.active_children():
            if process.pid not in self._others:
                process.kill()

    def close(self) -> None:
        """End the thread after the jobs it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, function = item
            if not job.set_running_or_notify_cancel():
                continue
            try:
                job.set_result(function())
            except BaseException as exc:
                job.set_exception(exc)
            del item, job, function  # an engine kept alive by this frame would never be collected
