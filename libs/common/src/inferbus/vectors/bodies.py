"""Bodies of /v1/vectors for documents and searches, as clients write and read them: over HTTP, and as lines of a batch.

What is asked has the fields of the message on the bus, and an unknown one is refused, so that a typo is told.
"""

from __future__ import annotations

import msgspec

from inferbus.contracts.vector_search import Hit, SearchAnswer, SearchRequest
from inferbus.contracts.vectors import Document, DocumentFault, IndexReport
from inferbus.errors import error_from


class NewDocument(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document: its `text`, its `vector` (or `vector_b64`: little-endian 32-bit floats), or both; or `delete`, to take it
    out. `payload` is any JSON object and comes back as it is. Of two states of a document the higher `version` counts."""


class NewDocuments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Documents, in the order in which they take effect. `wait_s` over 0: the answer says what became of them, if that is
    known in time."""

    documents: list[NewDocument]
    wait_s: float = 0.0


class VectorSearch(SearchRequest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=False):
    """What to look for: one of `text`, `vector`, `vector_b64` and `like` (a document's id)."""

    def request(self) -> SearchRequest:
        """Give the message that asks for it."""
        return SearchRequest(**{name: getattr(self, name) for name in self.__struct_fields__})


class AcceptedObject(msgspec.Struct, kw_only=True):
    """Documents that are accepted for good. What became of them is said where somebody waited for it (`indexed` is null
    otherwise); each fault is a dead letter as well."""

    object: str = "vector.accepted"
    accepted: int
    indexed: int | None = None
    deleted: int | None = None
    stale: int | None = None
    chunks: int | None = None
    tokens: int | None = None
    faults: list[DocumentFault] = []


class SearchResults(msgspec.Struct, kw_only=True):
    """Hits, the best first; `took_ms` is the vector service's time."""

    object: str = "vector.results"
    collection: str
    data: list[Hit]
    model: str
    tokens: int
    took_ms: float


def describe_results(answer: SearchAnswer) -> SearchResults:
    return SearchResults(
        collection=answer.collection, data=answer.hits, model=answer.model, tokens=answer.tokens,
        took_ms=round(answer.took_s * 1000, 3),
    )  # fmt: skip


def describe_report(accepted: int, report: IndexReport | None) -> AcceptedObject:
    """Give what became of documents, where it is known.

    Raises:
        InferbusError: nothing of them could be looked at (NotFound: there is no such collection).
    """
    if report is None:
        return AcceptedObject(accepted=accepted)
    if report.error:
        error = error_from(report.error, report.message)
        error.param = "collection" if report.error == "not_found" else None
        raise error
    return AcceptedObject(
        accepted=accepted, indexed=report.indexed, deleted=report.deleted, stale=report.stale, chunks=report.chunks,
        tokens=report.tokens, faults=report.faults,
    )  # fmt: skip
