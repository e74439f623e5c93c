"""Durable requests: begun once whoever asks how often, waited for without their client, found again from any gateway."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from contextlib import suppress

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Ended, Exchange
from inferbus.bus import Bus
from inferbus.bus.stored import HOLD_S, last_stored
from inferbus.contracts.durable import DurableRequest, IdempotencyKey, Outcome
from inferbus.contracts.envelope import RESULTS
from inferbus.durable.event_ids import EventId
from inferbus.durable.outcomes import failed_outcome, has_outcome, load_outcome, store_outcome
from inferbus.durable.reader import DurableReader
from inferbus.durable.records import DurableRecords
from inferbus.errors import (
    ERROR_TABLE,
    Cancelled,
    Conflict,
    DeadlineWhileQueued,
    DeadlineWhileRunning,
    InferbusError,
    NotFound,
)
from inferbus.process.presence import PresenceTable
from inferbus_gateway.orphans import Orphans
from inferbus_gateway.ports import Admitter, ModelLister

QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED = "queued", "running", "completed", "failed", "cancelled"
_WORKER_WITHIN_S = 2.0
_LATE_S = 5.0
_GHOST_S = 1.0
_HOLD_S = 30.0
_LOOK_S = 0.2
_MAX_DEADLINE_S = 86_400.0
log = structlog.get_logger()


class Opened(msgspec.Struct, frozen=True):
    """A durable request that is there now. `replayed`: it was there before. `rate_headers` say how the limits stand that it
    was taken from; none where it was not, now and here."""

    record: DurableRequest
    replayed: bool
    rate_headers: tuple[tuple[str, str], ...] = ()


class RequestStatus(msgspec.Struct, frozen=True):
    """How a durable request is doing. `record` is None where only its outcome is left."""

    state: str
    record: DurableRequest | None
    outcome: Outcome | None


class DurableRequests:
    """One per gateway; `asker` is its own."""

    def __init__(
        self, bus: Bus, admitter: Admitter, models: ModelLister, presence: PresenceTable, *, asker: str
    ) -> None:
        self._bus = bus
        self._admitter = admitter
        self._models = models
        self._asker = asker
        self._presence = presence
        self._records = DurableRecords(bus)
        self._orphans = Orphans(bus, presence, self._is_orphan)
        self._keeping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._orphans.start()

    async def stop(self) -> None:
        """Wait for nothing any more: workers finish what runs, and other gateways answer for it."""
        await self._orphans.stop()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def open(self, identity: Identity, ask: Ask) -> Opened:
        """Begin a request, or join the one that has its idempotency key, or its id.

        Raises:
            Conflict: the key, or the id, was used for another path or body.
            InferbusError: it was not admitted (`Admission.admit`).
        """
        tenant, digest = identity.tenant, _digest_of(ask)
        request_id = ask.request_id or secrets.token_hex(16)
        if ask.idempotency_key:
            request_id = await self._request_of_key(tenant, ask.idempotency_key, digest, request_id)
        record = self._record_of(ask, request_id, digest)
        existing = await self._records.create(tenant, record)
        if existing is not None:
            if existing.digest != digest:
                raise Conflict(f"the request id {request_id} was used with another path or body")
            if not await self._is_ghost(tenant, existing):
                return Opened(existing, True)
        try:
            renamed = msgspec.structs.replace(ask, request_id=request_id, delivery=RESULTS)
            exchange = await self._admitter.admit(identity, renamed)
        except BaseException:
            await self._forget(tenant, request_id, ask.idempotency_key)
            raise
        self._keep(exchange)
        return Opened(existing or record, existing is not None, exchange.rate_headers)

    async def refuse(self, tenant: str, request_id: str, error: InferbusError) -> None:
        """Keep why a request was not accepted, for a producer that will ask; not over another request of that id."""
        if not isinstance(error, Conflict):
            await self._end(tenant, request_id, error)

    async def read(self, tenant: str, request_id: str, after: EventId | None = None) -> DurableReader:
        """Begin to read an answer; the caller closes the reader."""
        reader = DurableReader(self._bus, tenant, request_id, after=after)
        await reader.start()
        self._orphans.watch(reader)
        return reader

    async def status(self, tenant: str, request_id: str) -> RequestStatus:
        """Say how a request is doing; one whose deadline passed without anybody noticing ends here.

        Raises:
            NotFound: there is none of this id and tenant, or it is no longer kept.
        """
        record = await self._records.find(tenant, request_id)
        outcome = await load_outcome(self._bus, tenant, request_id)
        if record is None and outcome is None:
            raise NotFound(f"no durable request {request_id}", param="request_id")
        running = False
        if outcome is None:
            subject = routes.deltas(tenant, request_id)
            running = await last_stored(self._bus, routes.STREAM_DELTAS, subject, hold_s=HOLD_S) is not None
            if record is not None and time.time() > record.deadline_at + _LATE_S:
                kind = DeadlineWhileRunning if running else DeadlineWhileQueued
                await self._end(tenant, request_id, kind("the deadline passed"))
                outcome = await load_outcome(self._bus, tenant, request_id)
        return RequestStatus(_state_of(outcome, running=running), record, outcome)

    async def state_of(self, tenant: str, request_id: str) -> str | None:
        """Say how a request is doing, or how it ended; None if there is none."""
        try:
            return (await self.status(tenant, request_id)).state
        except NotFound:
            return None

    async def cancel_orphan(self, tenant: str, request_id: str, *, tell: bool = True) -> bool:
        """Cancel a request whose gateway is gone. False if there is none, or it has ended, or its gateway lives (and acts
        itself). A worker that runs it hears `cancel.*` too, and stores the outcome, with what was spent; `tell` has it
        sent once more.
        """
        record = await self._records.find(tenant, request_id)
        if record is None or self._is_alive(record.asker) or await has_outcome(self._bus, tenant, request_id):
            return False
        if tell:
            await self._bus.publish(routes.cancel(tenant, request_id), b"")
        if not await self._wait_for_outcome(tenant, request_id):
            await self._end(tenant, request_id, Cancelled("the request was cancelled"))
        return True

    # --- beginning ------------------------------------------------------------------------------------------------

    async def _request_of_key(self, tenant: str, key: str, digest: str, request_id: str) -> str:
        """Give the request an idempotency key stands for: `request_id`, if it stood for none that may be answered."""
        mine = IdempotencyKey(request_id=request_id, digest=digest)
        while (known := await self._records.claim(tenant, key, mine)) is not None:
            if known.entry.digest != digest:
                raise Conflict("the idempotency key was used with another path or body", param="Idempotency-Key")
            outcome = await load_outcome(self._bus, tenant, known.entry.request_id)
            if outcome is None or outcome.failure is None or not ERROR_TABLE[outcome.failure.code].retryable:
                return known.entry.request_id
            # It failed for reasons of the moment: the key is free again, for whoever is first.
            mine = IdempotencyKey(request_id=secrets.token_hex(16), digest=digest)
            if await self._records.replace(tenant, key, mine, revision=known.revision):
                break
        return mine.request_id

    def _record_of(self, ask: Ask, request_id: str, digest: str) -> DurableRequest:
        entry = self._models.resolve(ask.model)
        default_s = _MAX_DEADLINE_S if entry is None else entry.limits.deadline_s(ask.lane)
        now = time.time()
        return DurableRequest(
            request_id=request_id,
            digest=digest,
            path=ask.path,
            model=ask.model,
            streamed=ask.streamed,
            created=now,
            deadline_at=now + min(ask.deadline_s or default_s, _MAX_DEADLINE_S),
            asker=self._asker,
        )

    def _is_alive(self, asker: str) -> bool:
        return asker == self._asker or self._presence.has_asker(asker)

    async def _is_orphan(self, tenant: str, request_id: str) -> bool:
        """Whether the gateway that waits for a request is gone."""
        record = await self._records.find(tenant, request_id)
        return record is not None and not self._is_alive(record.asker)

    async def _is_ghost(self, tenant: str, record: DurableRequest) -> bool:
        """Whether a request was noted by a gateway that may have died before it was accepted: nobody has begun it. Should
        it have been accepted all the same, the second one of the two finds the first one's outcome, or takes it up."""
        if self._is_alive(record.asker) or time.time() < record.created + _GHOST_S:
            return False
        subject = routes.deltas(tenant, record.request_id)
        if await last_stored(self._bus, routes.STREAM_DELTAS, subject) is not None:
            return False
        return not await has_outcome(self._bus, tenant, record.request_id)

    async def _forget(self, tenant: str, request_id: str, key: str) -> None:
        with suppress(InferbusError):
            await self._records.remove(tenant, request_id)
            if key:
                await self._records.release(tenant, key)

    # --- waiting --------------------------------------------------------------------------------------------------

    def _keep(self, exchange: Exchange) -> None:
        task = asyncio.create_task(self._wait_for(exchange), name=f"durable-{exchange.request_id}")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _wait_for(self, exchange: Exchange) -> None:
        """Be the client of an exchange until it ends, and see to it that the end is stored."""
        tenant, request_id = exchange.tenant, exchange.request_id
        try:
            while type(await exchange.next()) is not Ended:
                pass
        except InferbusError as error:
            begun = exchange.fence is not None or exchange.given_up is not None
            exchange.close()
            if begun and not exchange.finished:
                await self._wait_for_outcome(tenant, request_id)  # the worker's tells what was spent
            await self._end(tenant, request_id, error)
        exchange.close()

    async def _wait_for_outcome(self, tenant: str, request_id: str) -> bool:
        """Wait a moment for a worker to store an outcome."""
        for _ in range(round(_WORKER_WITHIN_S / _LOOK_S)):
            with suppress(InferbusError):
                if await has_outcome(self._bus, tenant, request_id):
                    return True
            await asyncio.sleep(_LOOK_S)
        return False

    async def _end(self, tenant: str, request_id: str, error: InferbusError) -> None:
        """Store an error as the outcome, unless there is one."""
        try:
            await store_outcome(self._bus, tenant, request_id, failed_outcome(error), hold_s=_HOLD_S)
        except InferbusError as exc:
            log.error("outcome_not_stored", request_id=request_id, code=exc.code, error=exc.message)


def _state_of(outcome: Outcome | None, *, running: bool) -> str:
    if outcome is None:
        return RUNNING if running else QUEUED
    if outcome.failure is not None:
        return CANCELLED if outcome.failure.code == Cancelled.code else FAILED
    return COMPLETED if outcome.status < 400 else FAILED


def _digest_of(ask: Ask) -> str:
    return hashlib.sha256(ask.path.encode() + b"\n" + ask.body).hexdigest()
