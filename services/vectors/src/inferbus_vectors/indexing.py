"""Indexing: the intake of documents and all that stands behind it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from inferbus import routes
from inferbus.bus import Bus
from inferbus.queue.intake import Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.bills import Bills
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.dead_documents import DeadDocuments
from inferbus_vectors.domain.checking import DocumentLimits
from inferbus_vectors.embedding import TextEmbedding
from inferbus_vectors.indexer import Indexer, IndexerDeps
from inferbus_vectors.indexing_metrics import IndexingMetrics
from inferbus_vectors.known import Known
from inferbus_vectors.ports import Embedder, SparseEncoder, VectorIndex, Watcher
from inferbus_vectors.settings import VectorsSettings
from inferbus_vectors.storing import Storing
from inferbus_vectors.writing import Writer


class Outside:
    """The adapters."""

    def __init__(self, index: VectorIndex, embedder: Embedder, sparse: SparseEncoder) -> None:
        self.index = index
        self.embedder = embedder
        self.sparse = sparse


def open_indexing(
    bus: Bus, known: Known, outside: Outside, bills: Bills, settings: VectorsSettings, stack: AsyncExitStack,
    registry: CollectorRegistry, watcher: Watcher | None = None,
) -> Intake:  # fmt: skip
    """Put indexing together; `start` what is returned when the engine is there."""
    embedding = TextEmbedding(
        outside.embedder, texts=settings.embed_texts, wait_s=settings.embed_wait_s, at_once=settings.embed_in_flight,
        deadline_s=settings.embed_deadline_s,
    )  # fmt: skip
    writer = Writer(outside.index, chunks=settings.write_documents, wait_s=settings.write_wait_s)
    stack.push_async_callback(writer.stop)
    stack.push_async_callback(embedding.stop)
    indexer = Indexer(
        IndexerDeps(
            bus=bus, view=known.view, book=CollectionBook(bus), dead=DeadDocuments(bus), payers=known.payers, bills=bills,
            storing=Storing(outside.index, embedding, outside.sparse, Splitter(), writer),
            metrics=IndexingMetrics(registry), watcher=watcher,
            limits=DocumentLimits(text_chars=settings.max_text_chars, payload_bytes=settings.max_payload_bytes),
        )
    )  # fmt: skip
    intake = Intake(
        bus,
        IntakeSettings(
            stream=routes.STREAM_VECTORS, consumer=routes.DURABLE_VECTORS, lane=routes.INTERACTIVE,
            max_attempts=settings.max_attempts, max_retries=settings.max_retries,
        ),
        Slots(settings.messages, reserve=0),
        indexer.on_index,
    )  # fmt: skip
    stack.push_async_callback(intake.stop)
    return intake
