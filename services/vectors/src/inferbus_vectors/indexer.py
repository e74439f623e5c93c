"""Indexer: one index message from its receipt to its acknowledgement, which comes after all of it is durable.

Messages are worked on many at a time and in no order: a document's version, which is its message's place in the stream
unless its producer gave one, decides which state of it counts. So nothing here waits for what came before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.vectors import (
    KEY_ID,
    READY,
    REPORT_TO,
    TRACEPARENT,
    CollectionRecord,
    DocumentFault,
    IndexReport,
)
from inferbus.errors import InferbusError, NotFound, Permanent
from inferbus.queue.delivery import Delivery
from inferbus_vectors.bills import Bills, Operation
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.dead_documents import Dead, DeadDocuments, raw_of
from inferbus_vectors.domain.checking import Checked, DocumentLimits, check, collapsed
from inferbus_vectors.domain.points import DELETED, INDEXED, STALE
from inferbus_vectors.domain.reading import documents_in
from inferbus_vectors.indexing_metrics import IndexingMetrics
from inferbus_vectors.payers import Payers
from inferbus_vectors.ports import Payer, Watcher
from inferbus_vectors.storing import Stored, Storing

_INBOXES = ("_INBOX_gateway.", "_INBOX_batch.")
"""Of whoever may ask for any tenant."""
log = structlog.get_logger()


class IndexerDeps(msgspec.Struct, frozen=True, kw_only=True):
    bus: Bus
    view: CollectionsView
    book: CollectionBook
    storing: Storing
    dead: DeadDocuments
    payers: Payers
    bills: Bills
    metrics: IndexingMetrics
    limits: DocumentLimits
    watcher: Watcher | None = None
    clock: Callable[[], float] = time.time


class Indexer:
    """`on_index` handles deliveries; what it raises the intake settles."""

    def __init__(self, deps: IndexerDeps) -> None:
        self._deps = deps

    async def on_index(self, delivery: Delivery) -> None:
        """Index a message's documents, and acknowledge it."""
        begun = time.monotonic()
        subject = routes.parse_vectors(delivery.subject)
        try:
            report = await self._index(delivery, subject, begun)
        except Permanent as error:  # nothing of it can be done: the intake buries it whole
            self._report(delivery, subject, IndexReport(
                tenant=subject.tenant, collection=subject.name, error=error.code, message=error.message,
            ))  # fmt: skip
            raise
        self._report(delivery, subject, report)
        self._deps.metrics.message_s.observe(time.monotonic() - begun)
        delivery.ack()

    async def _index(self, delivery: Delivery, subject: routes.VectorsSubject, begun: float) -> IndexReport:
        deps = self._deps
        payer = Payer(subject.tenant, delivery.headers.get(KEY_ID, ""))
        identity = deps.payers.identity_of(payer)
        record = await self._collection(subject)
        checked, dead = self._checked(delivery, record)
        kept, overtaken = collapsed(checked)
        stored = await deps.storing.store(payer, record, kept, deps.clock())
        done: list[Stored] = []
        for one, result in zip(kept, stored, strict=True):
            if isinstance(result, Stored):
                done.append(result)
            else:
                dead.append(Dead(one.n, one.id, raw_of(one.document, one.version), result))
        if deps.watcher is not None:
            await deps.watcher.on_written(payer, record, [one.write for one in done if one.outcome == INDEXED])
        await deps.dead.bury(delivery, subject, dead)
        report = _report_of(record, done, overtaken, [one.fault for one in dead])
        self._count(report)
        await self._bill(delivery, identity, record, time.monotonic() - begun)
        return report

    async def _collection(self, subject: routes.VectorsSubject) -> CollectionRecord:
        """Give the collection: what the local copy has not heard of yet may be there all the same."""
        record = self._deps.view.find(subject.tenant, subject.name)
        if record is None:
            record = await self._deps.book.collection(subject.tenant, subject.name)
        if record.state != READY:
            raise NotFound(f"the collection `{subject.name}` is being deleted", param="collection")
        return record

    def _checked(self, delivery: Delivery, record: CollectionRecord) -> tuple[list[Checked], list[Dead]]:
        checked: list[Checked] = []
        dead: list[Dead] = []
        for one in documents_in(delivery.data):
            if one.document is None:
                assert one.error is not None  # noqa: S101  # for the type checker: it is one or the other
                dead.append(Dead(one.n, one.id, one.raw, one.error))
                continue
            try:
                checked.append(check(one.n, one.document, record, self._deps.limits, place=delivery.seq))
            except Permanent as error:
                version = one.document.version or delivery.seq
                dead.append(Dead(one.n, one.document.id, raw_of(one.document, version), error))
        return checked, dead

    def _count(self, report: IndexReport) -> None:
        metrics = self._deps.metrics
        for outcome, count in (
            (INDEXED, report.indexed), (DELETED, report.deleted), (STALE, report.stale), ("failed", len(report.faults)),
        ):  # fmt: skip
            if count:
                metrics.documents.labels(outcome).inc(count)
        metrics.chunks.inc(report.chunks)
        metrics.tokens.inc(report.tokens)

    async def _bill(self, delivery: Delivery, identity: Identity, record: CollectionRecord, took_s: float) -> None:
        operation = Operation(
            task="vectors.index", identity=identity, model=record.live.model, lane=routes.BATCH,
            request_id=f"{delivery.subject}:{delivery.seq}", took_s=took_s,
            traceparent=delivery.headers.get(TRACEPARENT, ""),
        )  # fmt: skip
        await self._deps.bills.settle(operation, name=f"vectors:{int(delivery.stored_s)}:{delivery.seq}")

    def _report(self, delivery: Delivery, subject: routes.VectorsSubject, report: IndexReport) -> None:
        to = report_address(delivery.headers, subject.tenant)
        if to is None:
            return
        try:
            self._deps.bus.send(to, to_json(report))
        except InferbusError as error:  # nobody is owed it: what was indexed is there
            log.warning("report_not_sent", to=to, error=error.message)


def report_address(headers: Mapping[str, str], tenant: str) -> str | None:
    """Say where a report goes: only to the tenant itself, or to a gateway or a batch service, which asks for itself."""
    to = headers.get(REPORT_TO, "")
    may = to.startswith((routes.reply_prefix(tenant), *_INBOXES)) and not set(to) & set("*> \t\r\n")
    return to if may else None


def _report_of(
    record: CollectionRecord, done: list[Stored], overtaken: int, faults: list[DocumentFault]
) -> IndexReport:
    outcomes = [one.outcome for one in done]
    return IndexReport(
        tenant=record.tenant, collection=record.name, indexed=outcomes.count(INDEXED), deleted=outcomes.count(DELETED),
        stale=outcomes.count(STALE) + overtaken, faults=sorted(faults, key=lambda fault: fault.n),
        chunks=sum(len(one.write.chunks) for one in done if one.outcome == INDEXED),
        tokens=round(sum(one.tokens for one in done)),
    )  # fmt: skip
