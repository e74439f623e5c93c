"""Coordinator: has every job that nobody else cares for, and cares for each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import structlog

from inferbus.bus.pub_ack import WrongSequence
from inferbus.contracts.batch import STATES, JobRecord
from inferbus.errors import DependencyDown, NotFound
from inferbus.process.presence import PresenceTable
from inferbus_batch.job_care import CareDeps, JobCare

_LOOK_S = 1.0
_BUSY_LOOK_S = 10.0
log = structlog.get_logger()


class Coordinator:
    """`start`, then `stop`. What it leaves is taken over by whoever sees that it is gone."""

    def __init__(self, deps: CareDeps, presence: PresenceTable) -> None:
        self._deps = deps
        self._presence = presence
        self._caring: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._forget: Callable[[], None] = lambda: None

    async def start(self) -> None:
        self._forget = self._deps.jobs.on_change(lambda _: self._wake.set())
        self._presence.on_lost(lambda _: self._wake.set())
        self._task = asyncio.create_task(self._look_after_all(), name="coordinator")

    async def stop(self) -> None:
        self._forget()
        tasks = [task for task in (self._task, *self._caring.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_after_all(self) -> None:
        while True:
            self._wake.clear()
            jobs = self._deps.jobs.open()
            for state in STATES:
                self._deps.metrics.jobs.labels(state).set(sum(job.state == state for job in jobs))
            for job in jobs:
                if job.id not in self._caring:
                    await self._take(job)
            is_waiting = any(job.id not in self._caring for job in self._deps.jobs.open())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if is_waiting else _BUSY_LOOK_S):
                    await self._wake.wait()

    async def _take(self, job: JobRecord) -> None:
        """Make a job ours unless its owner lives."""
        try:
            if job.owner != self._deps.me:
                if job.owner and self._may_live(job.owner):
                    return
                known = await self._deps.book.find(job.tenant, job.id)
                if known.job.owner != job.owner:
                    return
                await self._deps.book.replace(known, msgspec.structs.replace(known.job, owner=self._deps.me))
                if job.owner:
                    log.info("job_taken_over", batch=job.id, state=job.state)
        except (WrongSequence, NotFound):
            return  # somebody was first: the watch will tell
        except DependencyDown as error:
            log.info("job_not_taken", batch=job.id, error=error.message)
            return
        task = asyncio.create_task(JobCare(self._deps, job.tenant, job.id).run(), name=f"care-{job.id}")
        self._caring[job.id] = task
        task.add_done_callback(lambda done: self._on_done(job.id, done))

    def _on_done(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._caring.pop(job_id, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job_care_failed", batch=job_id, error=repr(error))

    def _may_live(self, owner: str) -> bool:
        """Whether a coordinator lives, as far as one can know: nobody is taken for dead before all were heard."""
        lives = any(beat.incarnation == owner for beat in self._presence.alive().values())
        return lives or not self._presence.settled
