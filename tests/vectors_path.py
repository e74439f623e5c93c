"""The vector service on the main path: its process, collections without a door, and what lies in its engine."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
from nats.aio.msg import Msg
from tests.dead_letters import DeadLetter
from tests.main_path import MainPath

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import Stored, read_page
from inferbus.codec import to_json
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.usage import UsageEvent
from inferbus.contracts.vectors import REPORT_TO, CollectionRecord, Document, IndexMessage, IndexReport, Placement
from inferbus.testing import eventually
from inferbus_vectors.adapters.qdrant_edge.index import EdgeIndex
from inferbus_vectors.domain.points import Found, Scope, Where, shard_of

EMBED = ModelEntry(name="simulator-embed", pool="embed", tasks=("embeddings",))


class VectorsPath(MainPath):
    """`vectors` starts the service; `index` publishes as the producer `dev`."""

    producer: Bus

    async def _set_up(self) -> None:
        await super()._set_up()
        self.producer = await self.nats.connect("dev", name="producer")
        self._writer = await self.nats.connect("vectors", name="collections")
        self.reports: list[IndexReport] = []

        def on_report(message: Msg) -> None:
            self.reports.append(msgspec.json.decode(message.data, type=IndexReport))

        await self.producer.listen("reply.dev.reports", on_report)

    async def __aexit__(self, *error: object) -> None:
        await self.producer.close()
        await self._writer.close()
        await super().__aexit__(*error)  # type: ignore[arg-type]  # passed on as it came

    @property
    def vectors_folder(self) -> Path:
        return self._folder / "vectors"

    async def collection(self, name: str, *, model: str = "", dimension: int = 4, **more: object) -> CollectionRecord:
        """Note a collection, as the service's own desk does."""
        record = CollectionRecord(
            id=secrets.token_hex(4), tenant="dev", name=name, created=1.0, live=Placement(model=model, dimension=dimension),
            **more,  # type: ignore[arg-type]  # of the record's own types
        )  # fmt: skip
        await self._writer.kv_put(routes.KV_COLLECTIONS, routes.tenant_key("dev", name), to_json(record))
        return record

    async def index(self, collection: str, documents: Iterable[Document]) -> int:
        """Publish one message; returns its place."""
        return await self.index_raw(collection, to_json(IndexMessage(documents=list(documents))))

    async def index_and_wait(self, collection: str, documents: Iterable[Document]) -> IndexReport:
        """Publish one message, and wait for the report of it."""
        before = len(self.reports)
        await self.index(collection, documents)
        await eventually(lambda: len(self.reports) > before)
        return self.reports[-1]

    async def index_raw(self, collection: str, data: bytes, **headers: str) -> int:
        headers = {REPORT_TO: "reply.dev.reports"} | headers
        return await self.producer.accept(
            routes.vectors_index("dev", collection), data, headers, msg_id=secrets.token_hex(8), hold_s=30.0
        )

    async def waiting(self) -> int:
        """Count index messages that are not acknowledged."""
        answer = await self._admin.request(f"$JS.API.STREAM.INFO.{routes.STREAM_VECTORS}")
        return int(msgspec.json.decode(answer.data)["state"]["messages"])

    async def indexed(self, *, within_s: float = 30.0) -> None:
        """Wait until nothing is left in the queue."""

        async def none_left() -> bool:
            return await self.waiting() == 0

        await eventually(none_left, within_s=within_s)

    async def usage(self) -> list[UsageEvent]:
        """Read all events of usage."""
        stored = await self._stored_in(routes.STREAM_USAGE, routes.SUBJECTS_USAGE)
        return [msgspec.json.decode(one.data, type=UsageEvent) for one in stored]

    async def letters(self) -> list[DeadLetter]:
        """Read all dead letters."""
        stored = await self._stored_in(routes.STREAM_DLQ, routes.SUBJECTS_DLQ)
        return [DeadLetter(one.seq, one.data, dict(one.headers)) for one in stored]

    async def _stored_in(self, stream: str, subject: str) -> list[Stored]:
        operator = await self.nats.connect("operator", name="reading")
        try:
            found: list[Stored] = []
            left = 1
            while left:
                page, left = await read_page(operator, stream, subject, found[-1].seq + 1 if found else 1)
                found += page
                left = left if page else 0
            return found
        finally:
            await operator.close()

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[EdgeIndex]:
        """Open what the service has left; it must have ended."""
        index = EdgeIndex(self.vectors_folder)
        await index.start()
        await index.owned()
        try:
            yield index
        finally:
            await index.stop()


async def everything(index: EdgeIndex, record: CollectionRecord) -> list[Found]:
    """Read all chunks of a collection."""
    where = Where(scope=Scope(record.tenant, record.id))
    found: list[Found] = []
    after = ""
    while True:
        page = await index.read(shard_of(record.live).name, where, after=after, limit=1000)
        found += page.found
        after = page.next
        if not after:
            return found


def ready(id: str, *values: float, **more: object) -> Document:
    """A document with a vector."""
    data = base64.b64encode(np.array(values, "<f4").tobytes()).decode()
    return Document(id=id, vector_b64=data, **more)  # type: ignore[arg-type]  # of its own types
