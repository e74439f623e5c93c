"""Documents into messages of a size that travels well, and reports of several messages into one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from inferbus.codec import to_json
from inferbus.contracts.vectors import Document, DocumentFault, IndexMessage, IndexReport
from inferbus.errors import InvalidRequest, TooLarge

MESSAGE_BYTES, DOCUMENT_BYTES = 512 * 1024, 4 * 1024 * 1024
"""How much of documents goes into one message, and how large one of them may be."""
MESSAGE_DOCUMENTS = 256
_SUMMED = ("indexed", "deleted", "stale", "chunks", "tokens")


class Packed(msgspec.Struct, frozen=True):
    """An index message as bytes; its first document is the `first` of the request's, from 0, and it has `count`."""

    data: bytes
    first: int
    count: int


def packed(documents: Iterable[Document]) -> list[Packed]:
    """Cut documents into messages, in their order.

    Raises:
        TooLarge: one is over what is possible. InvalidRequest: there are none.
    """
    found = list(_cut(documents))
    if not found:
        raise InvalidRequest("there are no documents", param="documents")
    return found


def summed(parts: Sequence[tuple[Packed, IndexReport]]) -> IndexReport:
    """Add the reports of a request's messages up, faults counted by their place in the request."""
    first = parts[0][1]
    failed = next((report for _, report in parts if report.error), first)
    faults: list[DocumentFault] = [
        msgspec.structs.replace(fault, n=fault.n + message.first)
        for message, report in parts
        for fault in report.faults
    ]
    sums = {name: sum(getattr(report, name) for _, report in parts) for name in _SUMMED}
    return msgspec.structs.replace(first, faults=faults, error=failed.error, message=failed.message, **sums)


def _cut(documents: Iterable[Document]) -> Iterator[Packed]:
    batch: list[msgspec.Raw] = []
    size = first = 0
    for n, document in enumerate(documents):
        data = to_json(document)
        if len(data) > DOCUMENT_BYTES:
            where = f"documents[{n}]"
            raise TooLarge(f"{where} is {len(data)} bytes, the limit is {DOCUMENT_BYTES} bytes", param=where)
        if batch and (size + len(data) > MESSAGE_BYTES or len(batch) == MESSAGE_DOCUMENTS):
            yield _message(batch, first)
            batch, size, first = [], 0, n
        batch.append(msgspec.Raw(data))
        size += len(data)
    if batch:
        yield _message(batch, first)


def _message(documents: list[msgspec.Raw], first: int) -> Packed:
    data = to_json({"type": IndexMessage.__struct_config__.tag, "documents": documents})
    return Packed(data, first, len(documents))
