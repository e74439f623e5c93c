"""Asking: one row of a chunk, from its request to its outcome, whoever began it.

A row is a durable request on the batch lane: its one outcome is kept under its request id. So whoever comes later takes
what is there, waits for what is on its way, and begins the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.admit import Admission, Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Ended, Exchange, Stored
from inferbus.batch.fence import is_behind
from inferbus.batch.lines import Row
from inferbus.bus import Bus
from inferbus.bus.stored import is_stored
from inferbus.contracts.batch import JobRecord
from inferbus.contracts.durable import Outcome
from inferbus.contracts.envelope import RESULTS
from inferbus.contracts.models import VECTORS
from inferbus.durable.outcomes import ROW_KEPT_S, failed_outcome, load_outcome, store_outcome
from inferbus.errors import Cancelled, DependencyDown, InferbusError, Permanent, RateLimited, Transient
from inferbus.errors import Ended as EndedEarly
from inferbus_batch.domain.row_end import RowEnd, backoff_s, is_of_the_moment, tokens_of
from inferbus_batch.gate import LEASE_LOST, Gate
from inferbus_batch.vector_rows import VectorRows

_LOOK_S = 10.0
"""How long a row is waited for before its outcome is looked for: a message that was a duplicate ends silently."""
_AGAIN_S = 1.0
_LONGEST_WAIT_S = 5.0
"""A row over a limit waits so long in its place; longer, and its chunk goes back."""
log = structlog.get_logger()


class Given(msgspec.Struct, frozen=True):
    """What is the same for all rows of a chunk. `queued` says where requests lie that an earlier worker of the chunk began;
    None where it is the first one, and nothing has to be looked for."""

    job: JobRecord
    gate: Gate
    identity: Callable[[], Identity]
    deadline_s: float
    queued: Mapping[str, Stored] | None = None
    traceparent: str = ""
    fence: str = ""
    """The chunk's (`inferbus.batch.fence`), and which delivery of it this is."""
    attempt: int = 1


class Asking:
    """Asks rows; one for all chunks of a process."""

    def __init__(self, bus: Bus, admission: Admission, vectors: VectorRows, *, attempts: int) -> None:
        self._bus = bus
        self._admission = admission
        self._vectors = vectors
        self._attempts = attempts

    async def end_of(
        self, given: Given, row: Row, first: Outcome | None = None, *, taken: bool = False
    ) -> RowEnd | None:
        """Ask a row, or take up what was asked, until it has an end; None where its chunk's gate was shut before. `first` is
        what came of it the first time, where that is known; `taken`: an earlier worker of the chunk had asked.

        Raises:
            Forbidden, Unauthenticated: the submitter may ask nothing any more.
        """
        attempt, wasted = 1, 0
        while True:
            request_id = routes.line_request(given.job.id, row.line, attempt)
            outcome, first = first, None
            if outcome is None:
                outcome = await self.found(given, request_id)
                taken = taken or outcome is not None
            if outcome is None:
                outcome = await self._begin(given, row, request_id)
            if outcome is None:
                return None
            if attempt >= self._attempts or not is_of_the_moment(outcome):
                return RowEnd(request_id=request_id, outcome=outcome, attempts=attempt, wasted=wasted, taken=taken)
            wasted += tokens_of(outcome)
            if not await given.gate.sleep(backoff_s(attempt)):
                return None
            attempt += 1

    async def begun(self, given: Given, lines: Sequence[int]) -> frozenset[int]:
        """Give those lines that earlier workers of the chunk asked by themselves.

        Raises:
            DependencyDown: the bus is away, and nothing is begun any more.
        """
        if given.queued is None:
            return frozenset()
        names = [routes.line_request(given.job.id, line) for line in lines]
        ended = await asyncio.gather(*(self.outcome(given, name) for name in names))
        return frozenset(
            line
            for line, name, outcome in zip(lines, names, ended, strict=True)
            if outcome is not None or name in given.queued
        )

    async def left_by(self, given: Given, line: int) -> RowEnd | None:
        """Give the end an earlier worker's request came to, and stop what it left running: nothing more is asked."""
        request_id = routes.line_request(given.job.id, line)
        outcome = await self.outcome(given, request_id, patient=False)
        if outcome is not None:
            return RowEnd(request_id=request_id, outcome=outcome, taken=True)
        stored = (given.queued or {}).get(request_id)
        if stored is not None:
            await self._bus.publish(routes.cancel(given.job.tenant, request_id), b"")
            await self._bus.remove(stored.stream, stored.sequence)
        return None

    # --- what an earlier worker left --------------------------------------------------------------------------------

    async def found(self, given: Given, request_id: str) -> Outcome | None:
        """Give the outcome of a request that was begun; None where none was, or its message is gone without one."""
        if given.queued is None:
            return None
        stored = given.queued.get(request_id)
        while True:
            outcome = await self.outcome(given, request_id)
            if outcome is not None or stored is None or given.gate.is_shut:
                return outcome
            if not await given.gate.sleep(_AGAIN_S):
                return None
            if not await is_stored(self._bus, stored.stream, stored.sequence):
                return await self.outcome(given, request_id)  # it left the queue after its outcome was stored

    async def outcome(self, given: Given, request_id: str, *, patient: bool = True) -> Outcome | None:
        """Read how a request ended, however long the bus is away; None if it has not.

        Raises:
            DependencyDown: it is away, and nothing is begun any more, or it is not `patient`.
        """
        while True:
            try:
                return await load_outcome(self._bus, given.job.tenant, request_id)
            except DependencyDown:
                if not patient or not await given.gate.sleep(_AGAIN_S):
                    raise
            except InferbusError as error:  # its body is gone: nobody will ever read it
                return failed_outcome(error)

    # --- asking -----------------------------------------------------------------------------------------------------

    async def _begin(self, given: Given, row: Row, request_id: str) -> Outcome | None:
        ask, waits = ask_of(given, row, request_id), 0
        while not given.gate.is_shut and await self._is_still_ours(given):
            identity = given.identity()
            try:
                if row.task == VECTORS:
                    return await self._asked_of_vectors(given, identity, row, request_id)
                exchange = await self._admission.admit(identity, ask)
            except RateLimited as error:
                if error.hopeless:
                    return failed_outcome(error)
                wait_s = error.retry_after_s
                if wait_s > _LONGEST_WAIT_S:
                    given.gate.hold("over_a_limit", wait_s)
            except Transient as error:
                wait_s = min(_LONGEST_WAIT_S, error.retry_after_s)
            except Permanent as error:
                return failed_outcome(error)
            else:
                return await self.wait(given, exchange, request_id)
            waits += 1
            await given.gate.sleep(max(wait_s, backoff_s(min(waits, 4))))
        return None

    async def _is_still_ours(self, given: Given) -> bool:
        """Whether no other delivery has the chunk: it would ask the row in a group, and find this request too late."""
        if not given.fence:
            return True
        try:
            if given.gate.is_ours and not await is_behind(self._bus, given.job.tenant, given.fence, given.attempt):
                return True
            given.gate.hold(LEASE_LOST)
        except DependencyDown:  # nor can it be asked now
            return True
        return False

    async def _asked_of_vectors(self, given: Given, identity: Identity, row: Row, request_id: str) -> Outcome | None:
        """Do what a row asks of a collection; None where its job ended before. What came of it is kept as of any request, so
        that whoever takes the chunk up takes that. Raises as `VectorRows.do`."""
        doing = asyncio.ensure_future(self._vectors.do(identity, row, given.deadline_s))
        given.gate.enter(doing)
        try:
            outcome = await doing
        except EndedEarly as error:
            outcome = failed_outcome(error)
        except asyncio.CancelledError:
            if given.gate.ending and doing.cancelled():
                return None
            raise
        finally:
            given.gate.leave(doing)
        return await self._kept(given, request_id, outcome)

    async def wait(self, given: Given, exchange: Exchange, request_id: str) -> Outcome | None:
        """Wait for the end of what was begun. A request is not cancelled because its waiting is."""
        gate = given.gate
        gate.enter(exchange)
        try:
            outcome = await self._awaited(given, exchange, request_id)
        except asyncio.CancelledError:
            raise
        except BaseException:
            exchange.close()
            raise
        finally:
            gate.leave(exchange)
        exchange.close()
        return outcome

    async def _awaited(self, given: Given, exchange: Exchange, request_id: str) -> Outcome | None:
        while True:
            try:
                event = await exchange.next(_LOOK_S)
            except Cancelled as error:
                if given.gate.ending:
                    return await self.outcome(given, request_id, patient=False)
                return await self._ended_in(given, exchange, request_id, error)
            except InferbusError as error:
                return await self._ended_in(given, exchange, request_id, error)
            if isinstance(event, Ended) and event.data:  # what was stored, and first
                return Outcome(status=event.status, usage=event.usage, content_type=event.content_type, body=event.data)
            if event is None or isinstance(event, Ended):
                outcome = await self.outcome(given, request_id)
                if outcome is not None:
                    return outcome

    async def _ended_in(self, given: Given, exchange: Exchange, request_id: str, error: InferbusError) -> Outcome:
        """Give the outcome of a request that ended in an error; where no worker has stored one, this is it."""
        exchange.close()
        return await self._kept(given, request_id, failed_outcome(error))

    async def _kept(self, given: Given, request_id: str, outcome: Outcome) -> Outcome:
        """Store how a request ended, unless that is known already; gives what counts."""
        while True:
            try:
                await store_outcome(self._bus, given.job.tenant, request_id, outcome, ttl_s=ROW_KEPT_S)
            except DependencyDown:
                await asyncio.sleep(_AGAIN_S)
                continue
            except InferbusError as exc:
                log.error("outcome_not_stored", request_id=request_id, code=exc.code, error=exc.message)
            return await self.outcome(given, request_id) or outcome


def ask_of(given: Given, row: Row, request_id: str) -> Ask:
    """Say what admission is asked for a row."""
    return Ask(
        model=row.model, task=row.task, path=row.path, body=row.body, lane=routes.BATCH, delivery=RESULTS,
        deadline_s=given.deadline_s, request_id=request_id, traceparent=given.traceparent,
    )  # fmt: skip
