"""ChunkWorkers: a chunk for every free slot, whose is decided each time; leases, and what to do with one that failed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from inferbus.batch.job_book import JobBook
from inferbus.batch.states import is_runnable, paused
from inferbus.contracts.batch import INPUT_CHANGED, NOT_ENTITLED, STORAGE_DOWN, JobRecord, Pause
from inferbus.contracts.groups import FENCED
from inferbus.errors import (
    Conflict,
    DependencyDown,
    Forbidden,
    InvalidRequest,
    NotFound,
    StorageDown,
    Transient,
    Unauthenticated,
)
from inferbus.queue.delivery import Delivery
from inferbus_batch.adapters.chunk_queue import ACK_WAIT_S, ChunkQueue
from inferbus_batch.chunk_input import InputChanged
from inferbus_batch.chunk_run import GIVEN_UP, HELD, ChunkDeps, ChunkRun
from inferbus_batch.deaths import Deaths
from inferbus_batch.domain.choosing import FairShares, choose
from inferbus_batch.domain.poison import BESIDE, GIVING_UP
from inferbus_batch.domain.quiet_hours import QuietHours, quiet_hours_from
from inferbus_batch.gate import LEASE_LOST, Gate
from inferbus_batch.jobs_view import JobsView
from inferbus_batch.turns import Turns

_DRY_S = 2.0
_FAILED_S = 2.0
_LOOK_S = 2.0
_LEASED_S = ACK_WAIT_S * 0.8
"""So long after a renewal nobody else has a chunk, whatever clocks and the bus do."""
log = structlog.get_logger()


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many chunks at once, at which delivery one that fails always is given up, and after how many deaths one that ends
    its process."""

    slots: int
    chunk_attempts: int
    chunk_deaths: int
    quiet: QuietHours


class ChunkWorkers:
    """`start`, then `stop` with a grace period. `weights` gives the tenants' weights that are not 1."""

    def __init__(
        self, deps: ChunkDeps, queue: ChunkQueue, jobs: JobsView, book: JobBook, limits: WorkerLimits,
        weights: Callable[[], Mapping[str, int]],
    ) -> None:  # fmt: skip
        self._deps = deps
        self._queue = queue
        self._jobs = jobs
        self._book = book
        self._limits = limits
        self._weights = weights
        self._shares = FairShares()
        self._deaths = Deaths(deps.storage)
        self._turns = Turns()
        self._resting: dict[str, float] = {}
        self._running: dict[asyncio.Task[None], tuple[str, Gate, Delivery]] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._forget: Callable[[], None] = lambda: None

    @property
    def running(self) -> int:
        return len(self._running)

    async def start(self) -> None:
        self._forget = self._jobs.on_change(self._on_job)
        self._tasks = [
            asyncio.create_task(self._take_chunks(), name="chunk-workers"),
            asyncio.create_task(self._renew_leases(), name="chunk-leases"),
        ]

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, let rows that run end for `grace_s`, and hand the chunks back. What still runs then goes on
        without this process: its outcomes are found by the next."""
        self._forget()
        self._tasks[0].cancel()
        for _, gate, _ in self._running.values():
            gate.hold("stopping")
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        tasks = (*self._tasks, *self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- taking -----------------------------------------------------------------------------------------------------

    def _on_job(self, job: JobRecord) -> None:
        self._resting.pop(job.id, None)
        for job_id, gate, _ in self._running.values():
            if job_id == job.id:
                _tell(gate, job)
        self._wake.set()

    async def _take_chunks(self) -> None:
        while True:
            self._wake.clear()
            try:
                while len(self._running) < self._limits.slots and await self._take_one():
                    pass
            except DependencyDown as error:
                log.info("chunks_wait_for_bus", error=error.message)
                await asyncio.sleep(_FAILED_S)
            except Exception:  # without this loop no chunk is ever taken again
                log.exception("taking_chunks_failed")
                await asyncio.sleep(_FAILED_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if self._jobs.open() else None):
                    await self._wake.wait()

    async def _take_one(self) -> bool:
        """Take one chunk; False where there is none."""
        now = time.time()
        jobs = self._jobs.open()
        own = {job.id: _quiet_hours(job) for job in jobs if job.quiet_hours}
        job = choose(jobs, self._shares, now=now, quiet=self._limits.quiet, own_quiet=own, resting=self._resting)
        if job is None:
            self._resting = {job_id: until for job_id, until in self._resting.items() if until > now}
            return False
        delivery = await self._queue.next(job)
        if delivery is None:
            self._resting[job.id] = now + _DRY_S
            return True
        gate = Gate()
        gate.leased(_LEASED_S)
        task = asyncio.create_task(self._work(job, delivery, gate), name=f"chunk-{job.id}")
        self._running[task] = (job.id, gate, delivery)
        task.add_done_callback(self._on_done)
        _tell(gate, self._jobs.find(job.id))
        return True

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            for _, gate, delivery in list(self._running.values()):
                if gate.is_ours and self._deps.bus.connected:
                    gate.leased(_LEASED_S)
                delivery.progress()

    # --- working ----------------------------------------------------------------------------------------------------

    async def _work(self, job: JobRecord, delivery: Delivery, gate: Gate) -> None:
        """Work on one chunk. This is the edge of every chunk: nothing it raises may stop the others."""
        run: ChunkRun | None = None
        try:
            is_shared = any(other.tenant != job.tenant for other in self._jobs.open())
            run = ChunkRun(self._deps, job, delivery, gate, is_shared=is_shared)
            self._shares.charge(job.tenant, run.spec.rows, self._weights().get(job.tenant, 1))
            outcome = await self._turn(run, job, delivery)
            self._deps.metrics.chunks.labels(outcome).inc()
            if outcome == HELD and gate.held in (FENCED, LEASE_LOST):
                delivery.abandon()  # another has it: a word of ours would take it from that one
            elif outcome == HELD:
                self._hand_back(job, delivery, gate.again_s)
        except asyncio.CancelledError:
            delivery.nak()
            raise
        except InputChanged as error:
            await self._pause(job, INPUT_CHANGED, f"the input has changed since the batch was planned: {error}")
            self._hand_back(job, delivery, _FAILED_S)
        except StorageDown as error:
            await self._pause(job, STORAGE_DOWN, error.message)
            self._hand_back(job, delivery, _FAILED_S)
        except (Forbidden, Unauthenticated) as error:
            await self._pause(job, NOT_ENTITLED, error.message)
            self._hand_back(job, delivery, _FAILED_S)
        except Transient as error:
            log.warning("chunk_failed", batch=job.id, attempt=delivery.attempt, code=error.code, error=error.message)
            self._hand_back(job, delivery, _FAILED_S)
        except Exception as error:  # whatever it was, the chunk comes again or is given up; never its loop
            log.exception("chunk_failed", batch=job.id, attempt=delivery.attempt)
            if run is None or not await self._given_up(run, delivery, error):
                self._hand_back(job, delivery, _FAILED_S)

    async def _turn(self, run: ChunkRun, job: JobRecord, delivery: Delivery) -> str:
        """Run a chunk when it may, and note of one that was delivered before whether this process survives it."""
        if delivery.attempt == 1:
            async with self._turns.turn(alone=False):
                return await run.run()
        n = run.spec.n
        note = await self._deaths.of(job, n)
        how = note.how(self._limits.chunk_deaths)
        async with self._turns.turn(alone=how != BESIDE):
            await self._deaths.begun(job, n, note, how)
            try:
                if how != GIVING_UP:
                    return await run.run()
                why = f"{note.deaths} processes ended while they worked on this part of the batch, the last one on nothing else"
                await run.give_up(why, blind=note.blind)
                return GIVEN_UP
            finally:
                await self._deaths.ended(job, n, note)

    async def _given_up(self, run: ChunkRun, delivery: Delivery, error: Exception) -> bool:
        if delivery.attempt < self._limits.chunk_attempts:
            return False
        try:
            await run.give_up(f"this part of the batch failed {delivery.attempt} times: {type(error).__name__}")
        except Exception:  # then it comes again, and is given up then
            log.exception("chunk_not_given_up")
            return False
        self._deps.metrics.chunks.labels(GIVEN_UP).inc()
        return True

    def _hand_back(self, job: JobRecord, delivery: Delivery, again_s: float) -> None:
        delivery.nak(again_s)
        if again_s > 0:
            self._resting[job.id] = time.time() + again_s

    async def _pause(self, job: JobRecord, reason: str, message: str) -> None:
        pause = Pause(reason=reason, message=message, at=time.time())
        try:
            await self._book.change(job.tenant, job.id, lambda known: paused(known, pause))
        except (Conflict, NotFound):
            return  # it is ending, or over
        except DependencyDown as error:
            log.warning("job_not_paused", batch=job.id, reason=reason, error=error.message)
        log.warning("job_paused", batch=job.id, reason=reason, message=message)


def _quiet_hours(job: JobRecord) -> QuietHours:
    try:
        return quiet_hours_from(job.quiet_hours)
    except InvalidRequest:
        return QuietHours()  # whoever took it has not looked: it is no reason to stop all others


def _tell(gate: Gate, job: JobRecord | None) -> None:
    """Have the rows of a chunk hear what became of their job."""
    if job is None:
        gate.hold("over")
    elif job.ending:
        gate.end(job.ending)
    elif not is_runnable(job):
        gate.hold("paused")
