"""IndexRows: the stage that puts rows into a collection of the vector service."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from inferbus.errors import InvalidRequest, Transient, error_from
from inferbus.pipeline.row_batch import Row
from inferbus.pipeline.stages import Function, Place, Tools, backoff_s, name_of

_DOCUMENT_S = 600.0


class IndexRows(msgspec.Struct, frozen=True, kw_only=True):
    """Put a row in. Its id names it in every run, so that doing it again changes nothing."""

    collection: str
    id: str
    text: str | Function
    vector: str
    payload: tuple[str, ...] | None
    concurrency: int
    retries: int
    kind: str = "index"
    replaces: bool = False
    reads: tuple[str, ...] | None = None

    def describe(self) -> str:
        text = self.text if isinstance(self.text, str) else name_of(self.text)
        return f"{text}{f', {self.vector}' if self.vector else ''} into {self.collection} by {self.id}"

    async def apply(self, row: Row, place: Place, tools: Tools) -> Row | None:  # noqa: ARG002 - the protocol's
        if tools.client is None:
            raise InvalidRequest("this pipeline has no client to index with")
        document = self.document_of(row)
        for attempt in range(self.retries + 1):
            try:
                report = await tools.client.vectors.index(self.collection, [document], timeout_s=_DOCUMENT_S)
                break
            except Transient:
                if attempt == self.retries:
                    raise
                await asyncio.sleep(backoff_s(attempt))
        for fault in report.faults:
            error = error_from(fault.code, fault.message)
            error.param = fault.param or None
            raise error
        return {}

    def document_of(self, row: Row) -> dict[str, Any]:
        """Make a document of a row.

        Raises:
            InvalidRequest: it has no id.
        """
        if row.get(self.id) in (None, ""):
            raise InvalidRequest(f"a row has no column {self.id!r}", param=self.id)
        document: dict[str, Any] = {"id": str(row[self.id])}
        text = row.get(self.text) if isinstance(self.text, str) else self.text(row)
        if text is not None:
            document["text"] = str(text)
        if self.vector:
            document["vector"] = list(row[self.vector])
        taken = {self.id, self.text, self.vector}
        names = self.payload if self.payload is not None else [name for name in row if name not in taken]
        document["payload"] = {name: row[name] for name in names if name in row}
        return document
