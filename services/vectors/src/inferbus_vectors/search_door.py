"""SearchDoor: searches on the bus, `vectors.search.<tenant>.<collection>`. The tenant is the subject's, which the bus has
checked; whatever a body says of tenants is unknown here.

So many run at once and no more: who finds no place is refused at once. Each has a deadline, and an event of usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from opentelemetry.trace import SpanKind

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.vector_search import DEADLINE_MS, REQUEST_ID, SearchAnswer, SearchRequest
from inferbus.contracts.vectors import KEY_ID, READY, TRACEPARENT, CollectionRecord
from inferbus.errors import DeadlineWhileRunning, DependencyDown, InferbusError, NotFound, TooLarge, Transient
from inferbus.telemetry.tracing import Tracing, end_span, traceparent_of
from inferbus_vectors.bills import Bills, Operation
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.payers import Payers
from inferbus_vectors.places import Places
from inferbus_vectors.ports import Payer
from inferbus_vectors.refusing import MAX_ANSWER_BYTES, refused
from inferbus_vectors.search_metrics import SearchMetrics
from inferbus_vectors.searching import Answered, Asked, Searching

_SETTLE_S = 0.02
"""So long what nobody waits for gathers: the events of usage of many searches are one write to the bus then."""
log = structlog.get_logger()


class SearchDoorDeps(msgspec.Struct, frozen=True, kw_only=True):
    """`deadline_s` is for searches that name none, and the most one may have."""

    bus: Bus
    view: CollectionsView
    book: CollectionBook
    searching: Searching
    payers: Payers
    places: Places
    bills: Bills
    metrics: SearchMetrics
    tracing: Tracing
    deadline_s: float


class _Search:
    """One search on its way, and what is known of it for the log, the ledger and the trace."""

    __slots__ = (
        "answer", "begun", "collection", "error", "headers", "identity", "message", "name", "tenant", "took_s", "traceparent",
    )  # fmt: skip

    def __init__(self, message: Msg) -> None:
        subject = routes.parse_vectors(message.subject)
        self.message = message
        self.headers: Mapping[str, str] = message.headers or {}
        self.tenant, self.name = subject.tenant, subject.name
        self.begun = time.monotonic()
        self.identity: Identity | None = None
        self.collection: CollectionRecord | None = None
        self.answer: Answered | None = None
        self.error: InferbusError | None = None
        self.traceparent = ""
        self.took_s = 0.0


class SearchDoor:
    """`open` it, then `close`."""

    def __init__(self, deps: SearchDoorDeps) -> None:
        self._deps = deps
        self._subscription: Subscription | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._ended: deque[_Search] = deque()

    async def open(self) -> None:
        self._subscription = await self._deps.bus.listen(
            routes.VECTORS_SEARCH_ALL, self._on_message, queue=routes.QUEUE_VECTORS
        )

    async def close(self, grace_s: float) -> None:
        """Take no more, and let what runs come to its end for so long."""
        if self._subscription is not None:
            await self._deps.bus.drain(self._subscription)
        await _ended(self._running, grace_s)
        self._settle_all()
        await _ended(self._settling, grace_s)

    def _on_message(self, message: Msg) -> None:
        search = _Search(message)
        try:
            self._deps.places.take(search.tenant)
        except Transient as full:  # here and now: what waits behind a full house only gets older
            self._refuse(search, full)
            return
        _begin(self._serve(search), self._running)

    async def _serve(self, search: _Search) -> None:
        span = self._deps.tracing.begin(
            "vectors.search", search.headers.get(TRACEPARENT, ""), SpanKind.SERVER,
            {"db.system.name": "qdrant", "db.collection.name": search.name, "inferbus.tenant": search.tenant},
        )  # fmt: skip
        search.traceparent = traceparent_of(span, search.headers.get(TRACEPARENT, ""))
        try:
            data = await self._answer(search)
            self._reply(search, data)
        except InferbusError as error:
            self._refuse(search, error)
        except asyncio.CancelledError:
            self._refuse(search, DependencyDown("the service is stopping"))
            raise
        except Exception:  # a bug; whoever asked is told so, and the others are served
            log.exception("search_failed", tenant=search.tenant, collection=search.name)
            self._refuse(search, InferbusError("a bug in the vector service; the log has it"))
        finally:
            self._deps.places.give(search.tenant)
            end_span(span, {"db.response.returned_rows": len(search.answer.hits) if search.answer else 0}, search.error)
            search.took_s = round(time.monotonic() - search.begun, 6)
            self._ended.append(search)
            if len(self._ended) == 1:
                asyncio.get_running_loop().call_later(_SETTLE_S, self._settle_some)

    async def _answer(self, search: _Search) -> bytes:
        deps, payer = self._deps, Payer(search.tenant, search.headers.get(KEY_ID, ""))
        search.identity = deps.payers.identity_of(payer)
        collection = search.collection = await self._collection(search)
        request = from_json(search.message.data, SearchRequest, what="search")
        deadline_s = _deadline_s(search.headers, deps.deadline_s)
        asked = Asked(payer=payer, deadline_s=deadline_s, traceparent=search.traceparent)
        try:
            async with asyncio.timeout(deadline_s):
                answer = search.answer = await deps.searching.search(asked, collection, request)
        except TimeoutError:
            raise DeadlineWhileRunning(f"the search took longer than its {deadline_s:g} s") from None
        data = to_json(
            SearchAnswer(
                collection=collection.name, hits=answer.hits, model=collection.live.model, tokens=answer.tokens,
                took_s=round(time.monotonic() - search.begun, 6),
            )
        )  # fmt: skip
        if len(data) > MAX_ANSWER_BYTES:
            raise TooLarge(
                f"the answer has {len(data)} bytes, {MAX_ANSWER_BYTES} are possible: ask for fewer hits, or less of each",
                param="limit",
            )
        return data

    async def _collection(self, search: _Search) -> CollectionRecord:
        """Give what is to be searched; one that was made a moment ago may not be in the local copy yet."""
        try:
            return self._deps.view.get(search.tenant, search.name)
        except NotFound:
            record = await self._deps.book.collection(search.tenant, search.name)
            if record.state != READY:
                raise
            return record

    def _refuse(self, search: _Search, error: InferbusError) -> None:
        search.error = error
        self._deps.metrics.searches.labels(error.code).inc()
        self._reply(search, to_json(refused(error)))

    def _reply(self, search: _Search, data: bytes) -> None:
        with contextlib.suppress(DependencyDown):  # the bus is gone, and whoever asked hears of that, too
            if search.message.reply:
                self._deps.bus.send(search.message.reply, data)

    def _settle_some(self) -> None:
        """Settle one, and the others when the loop comes by again: nobody waits for that, so it makes nobody wait."""
        if self._ended:
            self._settle(self._ended.popleft())
        if self._ended:
            asyncio.get_running_loop().call_soon(self._settle_some)

    def _settle_all(self) -> None:
        while self._ended:
            self._settle(self._ended.popleft())

    def _settle(self, search: _Search) -> None:
        """Say what it was: to the metrics, the log and the ledger."""
        self._note(search)
        operation = _operation(search)
        if operation is not None:
            _begin(self._deps.bills.begin(operation), self._settling)

    def _note(self, search: _Search) -> None:
        if search.error is None:
            self._deps.metrics.searches.labels("ok").inc()
            self._deps.metrics.search_s.observe(search.took_s)
        log.info(
            "search", tenant=search.tenant, collection=search.name, request_id=search.headers.get(REQUEST_ID, ""),
            outcome=search.error.code if search.error else "ok", took_s=search.took_s,
            hits=len(search.answer.hits) if search.answer else 0,
        )  # fmt: skip


def _begin(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _ended(tasks: set[asyncio.Task[None]], grace_s: float) -> None:
    """Wait so long for tasks, then cancel them."""
    left = list(tasks)
    if left:
        await asyncio.wait(left, timeout=grace_s)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _operation(search: _Search) -> Operation | None:
    """Give what is charged; None where it is not known to whom, or for what."""
    if search.collection is None or search.identity is None:
        return None
    return Operation(
        task="vectors.search", identity=search.identity, model=search.collection.live.model, lane=routes.INTERACTIVE,
        request_id=search.headers.get(REQUEST_ID, ""), took_s=search.took_s, error=search.error,
        traceparent=search.traceparent,
    )  # fmt: skip


def _deadline_s(headers: Mapping[str, str], most_s: float) -> float:
    said = headers.get(DEADLINE_MS, "")
    return min(most_s, max(0.001, int(said) / 1000)) if said.isdecimal() else most_s
