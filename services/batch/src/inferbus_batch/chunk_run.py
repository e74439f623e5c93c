"""ChunkRun: one delivery of one chunk, from what earlier deliveries left of it to its one committed part.

A set difference: a committed part means nothing is left to do; else every row is taken up where it is. Killed anywhere,
the next delivery does what is missing, and nothing twice (docs/adr/0016-batch.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.batch.fence import raise_fence
from inferbus.batch.lines import Row
from inferbus.batch.part_book import PartBook
from inferbus.bus import Bus
from inferbus.codec import from_json
from inferbus.contracts.batch import ChunkSpec, JobRecord, PartRecord
from inferbus.contracts.groups import FENCED
from inferbus.contracts.models import LLM, ModelEntry
from inferbus.errors import DependencyDown, Overloaded
from inferbus.files.ports import Storage
from inferbus.models import ModelRegistry
from inferbus.queue.delivery import Delivery
from inferbus.telemetry.tracing import Tracing, end_span, traceparent_of
from inferbus_batch.adapters.work_queue import queued_requests
from inferbus_batch.asking import Asking, Given
from inferbus_batch.chunk_input import ChunkLines, InputChanged, read_chunk, unreadable
from inferbus_batch.chunk_output import remove_part, results_of, write_part
from inferbus_batch.chunk_rows import ChunkRows
from inferbus_batch.domain.prefix_order import by_prefix
from inferbus_batch.domain.row_end import RowEnd
from inferbus_batch.fail_points import CHUNK_BEGUN, PART_COMMITTED, PART_WRITTEN, ROWS_ENDED, FailPoints
from inferbus_batch.gate import Gate
from inferbus_batch.groups import Groups, Left
from inferbus_batch.metrics import BatchMetrics

_AGAIN_S = 1.0
ACCEPTED, REFUSED = "accepted", "refused"
DONE, SKIPPED, FOREIGN, HELD, GIVEN_UP = "done", "skipped", "foreign", "held", "given_up"
log = structlog.get_logger()


class ChunkDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What every chunk needs. `rows_at_once` are the rows of one chunk in flight, `group_rows` those of one message at most,
    `worker` is this process."""

    bus: Bus
    storage: Storage
    parts: PartBook
    models: ModelRegistry
    asking: Asking
    groups: Groups
    identity_of: Callable[[JobRecord], Identity]
    metrics: BatchMetrics
    tracing: Tracing
    fail_points: FailPoints
    rows_at_once: int
    group_rows: int
    row_deadline_s: float
    worker: str


class ChunkRun:
    """`run` it once. What it raises is for whoever took the chunk: InputChanged, StorageDown, Forbidden, ..."""

    def __init__(
        self, deps: ChunkDeps, job: JobRecord, delivery: Delivery, gate: Gate, *, is_shared: bool = False
    ) -> None:
        """`is_shared`: other tenants have batches too."""
        self._deps = deps
        self._is_shared = is_shared
        self._job = job
        self._delivery = delivery
        self._gate = gate
        self._ends: dict[int, RowEnd] = {}
        self._left = Left()
        self.spec = from_json(delivery.data, ChunkSpec, what="chunk")

    async def run(self) -> str:
        """Do what is left to do of the chunk; says what became of it. Held: the caller hands it back."""
        deps, job, spec, began = self._deps, self._job, self.spec, time.monotonic()
        if spec.plan != job.plan:
            self._delivery.terminate()
            return FOREIGN
        if await deps.parts.find(job.tenant, job.id, spec.n) is not None:
            await self._delivery.ack_surely()
            return SKIPPED
        attributes: dict[str, str | int] = {
            "inferbus.batch": job.id,
            "inferbus.chunk": spec.n,
            "inferbus.attempt": self._delivery.attempt,
        }
        span = deps.tracing.begin("batch chunk", job.traceparent, SpanKind.CONSUMER, attributes, root=True)
        try:
            outcome = await self._work(traceparent_of(span, job.traceparent))
        except BaseException as error:
            end_span(span, {}, error)
            raise
        end_span(span, {"inferbus.outcome": outcome, "inferbus.rows": spec.rows})
        if outcome == DONE:
            deps.metrics.chunk_s.observe(time.monotonic() - began)
        return outcome

    async def give_up(self, why: str, *, blind: bool = False) -> None:
        """Give every row that has no end an error, and commit: what fails always must not run for ever. `blind`: without
        looking at lines and outcomes."""
        deps, job, spec = self._deps, self._job, self.spec
        if spec.plan != job.plan:
            self._delivery.terminate()
            return
        if await deps.parts.find(job.tenant, job.id, spec.n) is not None:
            await self._delivery.ack_surely()
            return
        try:
            lines = unreadable(spec) if blind else await read_chunk(deps.storage, job, spec)
        except InputChanged:
            lines, self._ends = unreadable(spec), {}
        if lines.rows:
            await self._take_what_is_left(await self._given(lines, ""), lines)
        log.error("chunk_given_up", batch=job.id, chunk=spec.n, attempt=self._delivery.attempt, reason=why)
        await self._commit(lines, failure=why)

    async def _work(self, traceparent: str) -> str:
        lines = await self._lines()
        given = await self._given(lines, traceparent)
        self._deps.fail_points.reach(CHUNK_BEGUN, self.spec.n)
        if not self._gate.ending:
            await self._rows(given, lines).ask(self._ordered(list(lines.rows.values())), self._left)
        if self._gate.held:
            return HELD
        if self._gate.ending:
            await self._take_what_is_left(given, lines)
        self._deps.fail_points.reach(ROWS_ENDED, self.spec.n)
        await self._commit(lines)
        return DONE

    async def _given(self, lines: ChunkLines, traceparent: str) -> Given:
        """Say what is the same for all rows, and what earlier deliveries left in the queue."""
        deps, attempt = self._deps, self._delivery.attempt
        queued = None
        fence = routes.chunk_fence(self._job.id, self.spec.n)
        if attempt > 1:
            if not await raise_fence(deps.bus, self._job.tenant, fence, attempt):  # before looking at what is there
                self._gate.hold(FENCED)
            queued = await queued_requests(deps.bus, self._job.tenant, self._entries(lines))
        left_s = max(1.0, self._job.expires_at - time.time())
        given = Given(
            self._job, self._gate, lambda: deps.identity_of(self._job), min(deps.row_deadline_s, left_s),
            queued.requests if queued is not None else None, traceparent, fence, attempt,
        )  # fmt: skip
        if queued is not None:
            self._left = await deps.groups.left_by(given, self.spec.n, attempt, queued.groups, lines.rows)
        return given

    def _entries(self, lines: ChunkLines) -> list[ModelEntry]:
        """Give the models the rows name, as far as there are such."""
        named = (self._deps.models.resolve(name) for name in {row.model for row in lines.rows.values()})
        return [entry for entry in named if entry is not None]

    def _rows(self, given: Given, lines: ChunkLines) -> ChunkRows:
        deps = self._deps
        pools = {entry.pool for entry in self._entries(lines)}
        group_rows = deps.groups.size(pools, deps.group_rows, is_shared=self._is_shared)
        return ChunkRows(
            deps.asking, deps.groups, deps.metrics, given, self._ends, chunk=self.spec.n, attempt=self._delivery.attempt,
            at_once=deps.rows_at_once, group_rows=group_rows,
        )  # fmt: skip

    async def _lines(self) -> ChunkLines:
        try:
            return await read_chunk(self._deps.storage, self._job, self.spec)
        except InputChanged:
            if not self._gate.ending:
                raise
            return unreadable(self.spec)

    def _ordered(self, rows: list[Row]) -> list[Row]:
        """Sort by prefix what engines that cache prefixes are asked."""
        cached = {
            name for name in {row.model for row in rows}
            if (entry := self._deps.models.resolve(name)) is not None and entry.runtime == LLM
        }  # fmt: skip
        return by_prefix(row for row in rows if row.model in cached) + [row for row in rows if row.model not in cached]

    async def _take_what_is_left(self, given: Given, lines: ChunkLines) -> None:
        """Nothing is asked any more: take the ends that are there."""
        if given.queued is None:
            return
        for line, outcome in self._left.outcomes.items():
            request_id = routes.line_request(self._job.id, line)
            self._ends.setdefault(line, RowEnd(request_id=request_id, outcome=outcome, taken=True))
        for group_id in self._left.queued:
            await self._deps.groups.stop(given, group_id, given.queued[group_id])
        for line in lines.rows:
            if line not in self._ends and (end := await self._deps.asking.left_by(given, line)) is not None:
                self._ends[line] = end

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _commit(self, lines: ChunkLines, *, failure: str = "") -> None:
        deps, job = self._deps, self._job
        results = results_of(job, lines, self._ends, ending=self._gate.ending, failure=failure)
        part = await write_part(
            deps.storage, job, self.spec, results, self._ends, attempt=self._delivery.attempt, worker=deps.worker
        )
        deps.fail_points.reach(PART_WRITTEN, self.spec.n)
        if await self._committed(part):
            deps.metrics.commits.labels(ACCEPTED).inc()
            self._count(part)
            deps.fail_points.reach(PART_COMMITTED, self.spec.n)
        else:
            deps.metrics.commits.labels(REFUSED).inc()
            log.info("second_commit_refused", batch=job.id, chunk=part.n, attempt=part.attempt)
            await remove_part(deps.storage, part)
        await self._delivery.ack_surely()

    async def _committed(self, part: PartRecord) -> bool:
        """Commit, however long the bus is away: the rows are done."""
        while True:
            try:
                return await self._deps.parts.commit(self._job.tenant, part)
            except (DependencyDown, Overloaded) as error:
                log.warning("commit_waits", batch=part.job, chunk=part.n, error=error.message)
                await asyncio.sleep(_AGAIN_S)

    def _count(self, part: PartRecord) -> None:
        metrics = self._deps.metrics
        metrics.rows.labels("completed").inc(part.completed)
        metrics.rows.labels("failed").inc(part.failed)
        metrics.taken.inc(part.taken)
        metrics.wasted.inc(part.spent.wasted_tokens)
        metrics.retries.inc(sum(end.attempts - 1 for end in self._ends.values()))
        log.info(
            "batch_part_committed", batch=part.job, tenant=self._job.tenant, chunk=part.n, attempt=part.attempt,
            rows=part.rows, failed=part.failed, taken=part.taken, completion_tokens=part.spent.completion_tokens,
        )  # fmt: skip
