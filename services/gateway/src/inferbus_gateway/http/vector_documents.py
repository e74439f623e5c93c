"""/v1/vectors/{collection}: documents in, documents out. `vector_search` searches them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.vector_manage import Erased, Page
from inferbus.contracts.vectors import Document
from inferbus.errors import InvalidRequest
from inferbus.vectors.bodies import (
    AcceptedObject,
    NewDocuments,
    describe_report,
)
from inferbus.vectors.door import Accepted, checked_name
from inferbus.vectors.shapes import (
    ErasedObject,
    StoredDocuments,
    WantedDocuments,
    describe_page,
)
from inferbus_gateway.http.admin_request import read_wanted
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.vector_operations import VectorOperation, open_vectors, vector_operation

_OF = "/v1/vectors/{collection:str}"
_MAX_WAIT_S, _MAX_PAGE = 60.0, 1000


def build_vector_documents(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    return [*_build_writing(deps), *_build_reading(deps)]


def _build_writing(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        f"{_OF}/documents", status_code=202, summary="Index documents: accepted durably, in this order",
        operation_class=vector_operation(NewDocuments),
    )  # fmt: skip
    async def index_documents(request: AnyRequest, collection: FromPath[str]) -> AcceptedObject:
        async with open_vectors(deps, request) as (identity, door):
            new = await read_wanted(request, NewDocuments)
            if not 0 <= new.wait_s <= _MAX_WAIT_S:
                raise InvalidRequest(f"wait_s is from 0 to {_MAX_WAIT_S:g}", param="wait_s")
            return told(await door.index(identity, collection, new.documents, wait_s=new.wait_s))

    @delete(
        f"{_OF}/documents/{{id:str}}", status_code=202, summary="Delete a document", operation_class=VectorOperation
    )
    async def delete_document(
        request: AnyRequest,
        collection: FromPath[str],
        id: FromPath[str],
        wait_s: Annotated[float, QueryParameter(description="Seconds to wait until it is gone.")] = 0.0,
    ) -> AcceptedObject:
        async with open_vectors(deps, request) as (identity, door):
            gone = [Document(id=id, delete=True)]
            return told(await door.index(identity, collection, gone, wait_s=min(_MAX_WAIT_S, wait_s)))

    @post(
        f"{_OF}/erase", status_code=200, summary="Erase documents for good, by id or by a filter",
        operation_class=vector_operation(WantedDocuments),
    )  # fmt: skip
    async def erase_documents(request: AnyRequest, collection: FromPath[str]) -> ErasedObject:
        async with open_vectors(deps, request) as (identity, door):
            said = await read_wanted(request, WantedDocuments)
            wanted = verbs.Erase(name=checked_name(collection), ids=said.ids, filter=said.filter)
            return ErasedObject(chunks=(await door.manage(identity, verbs.ERASE, wanted, Erased)).chunks)

    return index_documents, delete_document, erase_documents


def _build_reading(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        f"{_OF}/documents/retrieve", status_code=200, summary="Documents by their ids",
        operation_class=vector_operation(WantedDocuments),
    )  # fmt: skip
    async def retrieve_documents(request: AnyRequest, collection: FromPath[str]) -> StoredDocuments:
        async with open_vectors(deps, request) as (identity, door):
            said = await read_wanted(request, WantedDocuments)
            wanted = verbs.Documents(name=checked_name(collection), ids=said.ids, with_vector=said.with_vector)
            page = await door.manage(identity, verbs.RETRIEVE, wanted, Page)
            return describe_page(page.chunks, page.next)

    @get(f"{_OF}/documents", summary="All documents, chunk by chunk", operation_class=VectorOperation)
    async def list_documents(
        request: AnyRequest,
        collection: FromPath[str],
        after: Annotated[str, QueryParameter(description="The `next` of the page before.")] = "",
        limit: Annotated[int, QueryParameter(description="At most so many chunks: 1 to 1000.")] = 100,
    ) -> StoredDocuments:
        async with open_vectors(deps, request) as (identity, door):
            if not 1 <= limit <= _MAX_PAGE:
                raise InvalidRequest(f"limit is {limit}; it must be from 1 to {_MAX_PAGE}", param="limit")
            wanted = verbs.Scroll(name=checked_name(collection), after=after, limit=limit)
            page = await door.manage(identity, verbs.SCROLL, wanted, Page)
            return describe_page(page.chunks, page.next)

    return retrieve_documents, list_documents


def told(accepted: Accepted) -> AcceptedObject:
    """Give what became of documents. Raises as `describe_report`."""
    return describe_report(accepted.documents, accepted.report)
