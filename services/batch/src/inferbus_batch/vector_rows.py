"""VectorRows: rows that index documents into a collection, or search one. The vector service does them, as it does over HTTP.

Documents are accepted durably and then waited for: what the service reports is the row's result. A row that is begun again,
since its worker died, is put in again, which changes nothing about the documents that are there.
"""

from __future__ import annotations

import time

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.batch.lines import Row
from inferbus.bus import Bus
from inferbus.bus.stored import is_stored
from inferbus.codec import from_json, to_json
from inferbus.contracts.durable import Outcome
from inferbus.contracts.step import Usage
from inferbus.contracts.vectors import IndexReport
from inferbus.errors import DeadlineWhileQueued, InvalidRequest, error_from
from inferbus.vectors.bodies import AcceptedObject, NewDocuments, VectorSearch, describe_report, describe_results
from inferbus.vectors.door import Put, VectorsDoor
from inferbus.vectors.paths import DOCUMENTS, SEARCH, collection_of, verb_of

_LOOK_S, _LAST_S = 30.0, 3.0
"""How long a report is waited for before it is looked whether its message is there still; and then, once it is not."""


class VectorRows:
    """One for all chunks of a process."""

    def __init__(self, bus: Bus, door: VectorsDoor) -> None:
        self._bus = bus
        self._door = door

    async def do(self, identity: Identity, row: Row, deadline_s: float) -> Outcome:
        """Do what a row asks for, and give its answer: as over HTTP, what became of the documents included.

        Raises:
            RateLimited, Overloaded, DependencyDown: not now. Forbidden, NotFound, InvalidRequest: that is the row's fault.
            DeadlineWhileQueued: accepted, but not known to be indexed in time.
        """
        verb = verb_of(row.path)
        collection = collection_of(row.path, verb)
        async with self._door.admitted(identity):
            if verb == SEARCH:
                wanted = from_json(row.body, VectorSearch, what="body")
                answer = await self._door.search(identity, collection, wanted.request())
                return _outcome(to_json(describe_results(answer)), answer.tokens)
            if verb != DOCUMENTS:
                raise InvalidRequest(f"{verb[:40]!r} is nothing a line can ask for", param="url")
            new = from_json(row.body, NewDocuments, what="body")
            if new.wait_s:
                raise InvalidRequest("wait_s: a line's result is what became of its documents", param="wait_s")
            put = await self._door.put(identity, collection, new.documents, told=True)
        try:
            report = await self._reported(put, deadline_s)
        finally:
            put.forget()
        told = describe_report(put.documents, report)
        _raise_where_nothing_was_done(told)
        return _outcome(to_json(told), report.tokens)

    async def _reported(self, put: Put, deadline_s: float) -> IndexReport:
        """Wait for what became of documents. A report is told once, and may be lost with a connection: it is looked whether
        the message waits still."""
        give_up = time.monotonic() + deadline_s
        while time.monotonic() < give_up:
            report = await put.report(min(_LOOK_S, deadline_s))
            if report is not None:
                return report
            for place in put.untold:
                if not await is_stored(self._bus, routes.STREAM_VECTORS, place):
                    report = await put.report(_LAST_S)
                    if report is not None:
                        return report
                    raise DeadlineWhileQueued("its documents left the queue, and nobody heard what became of them")
        raise DeadlineWhileQueued(f"accepted, and not known to be indexed within {deadline_s:.0f} s")


def _outcome(body: bytes, tokens: int) -> Outcome:
    return Outcome(status=200, usage=Usage(prompt_tokens=tokens), body=body)


def _raise_where_nothing_was_done(told: AcceptedObject) -> None:
    """A line of which every document is faulty is a faulty line: it belongs to the errors, and can be mended there."""
    if told.faults and len(told.faults) == told.accepted:
        first = told.faults[0]
        more = f" (and {len(told.faults) - 1} more)" if len(told.faults) > 1 else ""
        error = error_from(first.code, f"documents[{first.n}] {first.id!r}: {first.message}{more}")
        error.param = first.param or None
        raise error
