"""JobsKeeper: takes materialisations that nobody works on, does each in a child process, and notes how far it is.

A job whose process was killed is taken by another (or by it, back again) when its beat is old, and goes on after the slices
that were done; the slice that was under way is done again, which changes nothing that was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.codec import from_json
from inferbus.contracts.features import CANCELLED, DONE, FAILED, QUEUED, RUNNING, FeatureJob
from inferbus.errors import Conflict, DependencyDown, InferbusError
from inferbus_features.child import Child, start_child
from inferbus_features.child_orders import MATERIALIZE_MODULE, MaterializeOrder, MaterializeTold
from inferbus_features.job_book import FeatureJobBook

LEASE_S = 10.0
_BEAT_S = 3.0
_LOOK_S = 2.0
_ATTEMPTS = 5
log = structlog.get_logger()


class OpenJobs(LocalCopy):
    """The jobs that are not over, and a bell for changes."""

    def __init__(self, bus: Bus) -> None:
        self.jobs: dict[str, FeatureJob] = {}
        self.changed = asyncio.Event()
        super().__init__(bus, routes.KV_FEATURE_JOBS)

    def _on_change(self, key: str, value: bytes | None) -> None:
        if key.startswith(f"{routes.PLATFORM}."):
            return  # a lease
        self.jobs.pop(key, None)
        if value is not None:
            try:
                job = from_json(value, FeatureJob, what="job")
            except InferbusError as exc:
                log.error("feature_job_unreadable", key=key, error=exc.message)
                return
            if job.state in {QUEUED, RUNNING}:
                self.jobs[key] = job
        self.changed.set()


class JobsKeeper:
    """`run` it until `stopping`; one job at a time. `registry` gives the registry's bytes, `folder` is the store's."""

    def __init__(
        self,
        book: FeatureJobBook,
        jobs: OpenJobs,
        folder: Path,
        registry: Callable[[], Awaitable[bytes | None]],
        me: str,
    ) -> None:
        self._book = book
        self._jobs = jobs
        self._folder = folder
        self._registry = registry
        self._me = me
        self.pid: int | None = None
        """Of the process that does a job now."""

    async def run(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                self._jobs.changed.clear()
                for job in sorted(self._jobs.jobs.values(), key=lambda one: one.created):
                    if not stopping.is_set():
                        await self._survive(job, stop)
                news = asyncio.create_task(self._jobs.changed.wait())
                await asyncio.wait({stop, news}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        finally:
            stop.cancel()

    async def _survive(self, job: FeatureJob, stop: asyncio.Task[bool]) -> None:
        try:
            taken = await self._take(job)
            if taken is not None:
                await self._do(taken, stop)
        except InferbusError as exc:
            log.info("feature_job_waits", job=job.id, error=exc.message)
        except Exception:  # other jobs go on; this one is taken again when its beat is old
            log.exception("feature_job_step_failed", job=job.id)

    async def _take(self, job: FeatureJob) -> FeatureJob | None:
        """Make a job ours unless somebody works on it."""

        def decide(known: FeatureJob) -> FeatureJob:
            now = time.time()
            if known.state not in {QUEUED, RUNNING}:
                raise Conflict("it is over")
            if known.owner not in {"", self._me} and now - known.beat < LEASE_S:
                raise Conflict("another works on it")
            if known.attempts >= _ATTEMPTS:
                error = known.error or "the process that does it was killed too often"
                return msgspec.structs.replace(known, state=FAILED, error=error, ended=now, owner="")
            return msgspec.structs.replace(known, state=RUNNING, owner=self._me, beat=now, attempts=known.attempts + 1)

        try:
            taken = await self._book.change(job.tenant, job.id, decide)
        except Conflict:
            return None
        return taken if taken.state == RUNNING else None

    async def _do(self, job: FeatureJob, stop: asyncio.Task[bool]) -> None:
        data = await self._registry()
        if data is None:
            raise DependencyDown("no features are defined")
        path = self._folder / f"{job.id}-registry.db"
        path.write_bytes(data)
        order = MaterializeOrder(registry=str(path), state=str(self._folder), job=job)
        child = await start_child(MATERIALIZE_MODULE, msgspec.json.encode(order))
        self.pid = child.pid
        log.info("feature_job_started", job=job.id, view=job.view, done=job.done, of=job.slices, pid=child.pid)
        beats = asyncio.create_task(self._beat(job, child), name="feature-job-beats")
        work = asyncio.create_task(self._follow(job, child), name="feature-job")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await child.stop()
            await work
        finally:
            self.pid = None
            beats.cancel()
            work.cancel()
            await asyncio.gather(beats, work, return_exceptions=True)
            await child.stop()
            path.unlink(missing_ok=True)
            if stop.done():
                with contextlib.suppress(InferbusError):
                    await self._book.change(job.tenant, job.id, self._let_go)

    async def _follow(self, job: FeatureJob, child: Child) -> None:
        """Note what the child tells."""
        async for line in child.lines():
            told = msgspec.json.decode(line, type=MaterializeTold)

            def noted(known: FeatureJob, told: MaterializeTold = told) -> FeatureJob:
                if known.owner != self._me or known.state != RUNNING:
                    raise Conflict("it was cancelled, or another works on it")
                now = time.time()
                after = msgspec.structs.replace(known, done=told.done, rows=job.rows + told.rows, beat=now, attempts=0)
                if told.error:
                    return msgspec.structs.replace(after, state=FAILED, error=told.error, ended=now, owner="")
                if told.done >= known.slices:
                    return msgspec.structs.replace(after, state=DONE, ended=now, owner="")
                return after

            try:
                after = await self._book.change(job.tenant, job.id, noted)
            except Conflict:
                await child.stop()
                return
            if after.state != RUNNING:
                log.info("feature_job_ended", job=job.id, state=after.state, rows=after.rows, error=after.error)
        await child.wait()

    async def _beat(self, job: FeatureJob, child: Child) -> None:
        """Say that somebody works on it; end the child when it is cancelled."""
        while True:
            await asyncio.sleep(_BEAT_S)
            try:
                known = await self._book.change(job.tenant, job.id, self._with_beat)
            except DependencyDown:
                continue
            if known.state == CANCELLED or known.owner != self._me:
                await child.stop()
                return

    def _with_beat(self, known: FeatureJob) -> FeatureJob:
        if known.owner != self._me or known.state != RUNNING:
            return known
        return msgspec.structs.replace(known, beat=time.time())

    def _let_go(self, known: FeatureJob) -> FeatureJob:
        if known.owner != self._me or known.state != RUNNING:
            return known
        return msgspec.structs.replace(known, owner="", beat=0.0, attempts=max(0, known.attempts - 1))
