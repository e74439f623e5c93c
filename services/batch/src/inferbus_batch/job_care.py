"""JobCare: one job in the hands of one coordinator, from its planning to its files. Every step is a compare-and-set.

Killed between any two of them, whoever takes the job over does the step again; a coordinator that was only thought dead
is refused at its next write, since somebody else has written (docs/adr/0016-batch.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.batch.job_book import JobBook, KnownJob
from inferbus.batch.part_book import PartBook
from inferbus.batch.states import ended_early, final_state, is_over, moved, paused, resumed
from inferbus.bus import Bus
from inferbus.bus.pub_ack import WrongSequence
from inferbus.contracts.batch import (
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    STORAGE_DOWN,
    VALIDATING,
    JobError,
    JobRecord,
    Pause,
)
from inferbus.errors import DependencyDown, InvalidRequest, NotFound, Permanent, StorageDown, Transient
from inferbus.files.book import FileBook
from inferbus.files.names import new_file_id
from inferbus.files.ports import Storage
from inferbus_batch.adapters.chunk_queue import ChunkQueue
from inferbus_batch.chunk_output import parts_folder
from inferbus_batch.fail_points import FILES_WRITTEN, PLAN_PUBLISHED, FailPoints
from inferbus_batch.finalizing import Finalizer, ended_job
from inferbus_batch.jobs_view import JobsView
from inferbus_batch.metrics import BatchMetrics
from inferbus_batch.planning import Planner
from inferbus_batch.progress import Progress
from inferbus_batch.retrying import make_input

_WRITTEN = "written"
"""Beside the states in `JobRecord.since`: when the files were."""
_NOTE_EVERY_S = 0.5
_LOOK_S = 5.0
_AGAIN_S = 1.0
_LONGEST_AGAIN_S = 30.0
log = structlog.get_logger()


class CareDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What the care of every job needs. `me` is this process's incarnation."""

    bus: Bus
    book: JobBook
    jobs: JobsView
    parts: PartBook
    files: FileBook
    storage: Storage
    queue: ChunkQueue
    planner: Planner
    finalizer: Finalizer
    identity_of: Callable[[JobRecord], Identity]
    metrics: BatchMetrics
    fail_points: FailPoints
    me: str
    keep_s: float


class JobCare:
    """`run` until the job is over, or somebody else's."""

    def __init__(self, deps: CareDeps, tenant: str, job_id: str) -> None:
        self._deps = deps
        self._tenant = tenant
        self._id = job_id
        self._progress = Progress()
        self._news = asyncio.Event()
        self._noted_at = 0.0
        self._failures = 0

    async def run(self) -> None:
        """Take steps until there is none left. Nothing they raise ends it but that the job is not ours."""
        forget = self._deps.jobs.on_change(self._on_job)
        heard = await self._deps.bus.listen(routes.batch_parts_of(self._tenant, self._id), self._on_part)
        try:
            while await self._stepped():
                pass
        finally:
            forget()
            await self._deps.bus.unsubscribe(heard)

    def _on_job(self, job: JobRecord) -> None:
        if job.id == self._id:
            self._news.set()

    def _on_part(self, _: Msg) -> None:
        self._news.set()

    async def _stepped(self) -> bool:
        self._news.clear()
        try:
            known = await self._known()
            if known is None:
                log.info("job_gone", batch=self._id)
                return False
            if is_over(known.job):
                await self._deps.queue.forget(self._tenant, self._id)
                return False
            if known.job.owner != self._deps.me:
                return False
            await self._step(known)
            self._failures = 0
        except WrongSequence:
            return True
        except StorageDown as error:
            await self._rest(error)
        except (DependencyDown, Transient) as error:
            await self._wait_after(error)
        except Exception as error:
            log.exception("job_step_failed", batch=self._id)
            await self._wait_after(error)
        return True

    async def _known(self) -> KnownJob | None:
        try:
            return await self._deps.book.find(self._tenant, self._id)
        except NotFound:
            return None

    async def _step(self, known: KnownJob) -> None:
        if known.job.state == VALIDATING:
            await self._validate(known)
        elif known.job.state == FINALIZING:
            await self._finalize(known)
        else:
            await self._follow(known)

    # --- planning ---------------------------------------------------------------------------------------------------

    async def _validate(self, known: KnownJob) -> None:
        job, now = known.job, time.time()
        if now >= job.expires_at:
            await self._end(known, msgspec.structs.replace(job, ending=EXPIRED), EXPIRED)
            return
        if job.paused is not None:
            await self._wait_while_paused(known)
            return
        try:
            self._deps.identity_of(job)
            if job.retry_of and not job.input_file_id:
                known = await self._with_input(known)
            await self._deps.queue.forget(job.tenant, job.id)  # what an earlier planning has left
            file = await self._deps.files.get(job.tenant, known.job.input_file_id)
            plan = await self._deps.planner.plan(known.job, file)
        except Permanent as error:
            fault = JobError(code=error.code, message=error.message, param=error.param or "")
            await self._end(known, msgspec.structs.replace(known.job, ending=FAILED, errors=[fault]), FAILED)
            return
        self._deps.fail_points.reach(PLAN_PUBLISHED)
        begun = msgspec.structs.replace(
            moved(known.job, IN_PROGRESS, time.time()), plan=plan.id, chunks=plan.chunks, input=plan.input,
            counts=msgspec.structs.replace(job.counts, total=plan.rows),
        )  # fmt: skip
        await self._deps.book.replace(known, begun)
        log.info("batch_planned", batch=job.id, tenant=job.tenant, rows=plan.rows, chunks=plan.chunks)

    async def _with_input(self, known: KnownJob) -> KnownJob:
        """Make the input of a job that tries again what another could not do."""
        parent = (await self._deps.book.find(self._tenant, known.job.retry_of)).job
        if not is_over(parent) or not parent.dead_file_id:
            raise InvalidRequest(f"the batch {parent.id} has no failed lines to try again", param="retry_of")
        file = await make_input(self._deps.files, known.job, parent.dead_file_id)
        return await self._deps.book.replace(known, msgspec.structs.replace(known.job, input_file_id=file.id))

    # --- following --------------------------------------------------------------------------------------------------

    async def _follow(self, known: KnownJob) -> None:
        """Add up what is committed, see to time and pauses, and go on when every part is there."""
        job, now = known.job, time.time()
        async for seq, part in self._deps.parts.since(self._tenant, self._id, self._progress.seq + 1):
            if part.plan == job.plan:
                self._progress.add(seq, part)
        changed = self._progress.noted(job)
        if now >= job.expires_at:
            changed = ended_early(changed, EXPIRED)
        if changed.parts >= changed.chunks:
            await self._deps.book.replace(known, self._with_files(moved(changed, FINALIZING, now)))
            return
        is_ending = changed.ending != job.ending
        if changed != job and (is_ending or now - self._noted_at >= _NOTE_EVERY_S):
            self._noted_at = now
            known = await self._deps.book.replace(known, changed)
        if known.job.paused is not None:
            await self._wait_while_paused(known)
            return
        unsaid = self._progress.noted(known.job) != known.job
        left_s = job.expires_at - now if not job.ending else _LOOK_S
        await self._wait_for_news(min(_LOOK_S, _NOTE_EVERY_S if unsaid else _LOOK_S, max(0.0, left_s)))

    def _with_files(self, job: JobRecord) -> JobRecord:
        """Say what its files will be called, so that whoever writes them writes the same."""
        failed = job.counts.failed > 0
        return msgspec.structs.replace(
            ended_job(job, self._deps.keep_s, time.time()),
            output_file_id=new_file_id() if job.counts.completed else "",
            error_file_id=new_file_id() if failed else "",
            dead_file_id=new_file_id() if failed else "",
            paused=None,
        )  # fmt: skip

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _finalize(self, known: KnownJob) -> None:
        job = known.job
        if _WRITTEN not in job.since:
            try:
                await self._deps.finalizer.write_files(job)
            except NotFound:
                await self._results_lost(known)
                return
            self._deps.fail_points.reach(FILES_WRITTEN)
            written = msgspec.structs.replace(job, since=job.since | {_WRITTEN: time.time()})
            known = await self._deps.book.replace(known, written)
        await self._deps.storage.delete_below(parts_folder(job.tenant, job.id))
        await self._deps.queue.forget(job.tenant, job.id)
        await self._end(known, known.job, final_state(job))

    async def _results_lost(self, known: KnownJob) -> None:
        """The storage has lost what it had taken: nobody can make whole files of the rest."""
        fault = JobError(code="internal", message="results of this batch are gone from the storage of files")
        log.error("batch_results_lost", batch=self._id, folder=parts_folder(self._tenant, self._id))
        job = msgspec.structs.replace(
            known.job, ending=FAILED, errors=[fault], output_file_id="", error_file_id="", dead_file_id=""
        )
        await self._end(known, job, FAILED)

    async def _end(self, known: KnownJob, job: JobRecord, state: str) -> None:
        ended = moved(ended_job(job, self._deps.keep_s, time.time()), state, time.time())
        await self._deps.book.replace(known, ended, ttl_s=self._deps.keep_s)
        self._deps.metrics.finished.labels(state).inc()
        log.info(
            "batch_ended", batch=job.id, tenant=job.tenant, state=state, rows=job.counts.total, failed=job.counts.failed,
            completed=job.counts.completed, completion_tokens=job.spent.completion_tokens,
            wasted_tokens=job.spent.wasted_tokens, seconds=round(time.time() - job.created, 3),
        )  # fmt: skip

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _wait_for_news(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        if self._progress.parts:  # several parts at once are one change of the record
            await asyncio.sleep(min(timeout_s, _NOTE_EVERY_S) / 10)

    async def _wait_while_paused(self, known: KnownJob) -> None:
        job = known.job
        await self._wait_for_news(min(_LOOK_S, max(0.0, job.expires_at - time.time())))
        if job.paused is not None and job.paused.reason == STORAGE_DOWN and await self._storage_is_back(job):
            await self._deps.book.replace(known, resumed(job))
            log.info("job_resumed", batch=job.id, after=STORAGE_DOWN)

    async def _storage_is_back(self, job: JobRecord) -> bool:
        """Whether the storage gives and takes."""
        probe = f"{parts_folder(job.tenant, job.id)}/probe"
        try:
            if job.input is not None:
                await self._deps.storage.stat(job.input.body)
            await self._deps.storage.write(probe, _one_byte())
            await self._deps.storage.delete(probe)
        except NotFound:
            return True  # the input is gone: its chunks will find that out
        except StorageDown:
            return False
        return True

    async def _rest(self, error: StorageDown) -> None:
        """The storage is away: the job says so, where it can."""
        pause = Pause(reason=STORAGE_DOWN, message=error.message, at=time.time())
        with contextlib.suppress(Permanent, Transient):
            await self._deps.book.change(self._tenant, self._id, lambda job: paused(job, pause))
        await self._wait_after(error)

    async def _wait_after(self, error: Exception) -> None:
        self._failures += 1
        seconds = min(_LONGEST_AGAIN_S, _AGAIN_S * 2 ** min(10, self._failures - 1))
        log.warning("job_waits", batch=self._id, error=str(error), again_s=seconds)
        await asyncio.sleep(seconds)


async def _one_byte() -> AsyncIterator[bytes]:
    yield b"."
