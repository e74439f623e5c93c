"""/v1/vector_stores, as the OpenAI API has them: stores, and searching them. `vector_store_files` has their files."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from inferbus.admission.entitlements import may_use
from inferbus.admission.identity import Identity
from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.vector_search import COMPOUNDS, Filter, Hit, SearchRequest
from inferbus.contracts.vector_stores import StoreRecord
from inferbus.contracts.vectors import CollectionRecord, Field
from inferbus.errors import InvalidRequest, NotFound
from inferbus_gateway.http.admin_request import read_wanted
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.vector_operations import Session, VectorOperation, open_vectors, vector_operation
from inferbus_gateway.http.vector_store_attaching import attach_all
from inferbus_gateway.http.vector_store_chunking import AUTO, chunking_of
from inferbus_gateway.http.vector_store_files import STORE, STORES, build_store_files
from inferbus_gateway.http.vector_store_pages import page_of
from inferbus_gateway.http.vector_store_shapes import (
    AttributeFilter,
    ExpiresAfter,
    NewStore,
    NewStoreFile,
    StoreChange,
    StoreDeleted,
    StoreHit,
    StoreList,
    StoreObject,
    StoreResults,
    StoreSearch,
    TextContent,
    checked_pairs,
    describe_store,
)
from inferbus_gateway.ports import ModelLister

T = TypeVar("T")
_MAX_RESULTS, _MAX_DAYS = 50, 365
_NOTED_S = 60.0
"""How exactly it is known when a store was last used."""


def build_vector_stores(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    return [*_build_stores(deps), *_build_search(deps), *build_store_files(deps)]


def _build_stores(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(STORES, status_code=200, summary="Make a vector store", operation_class=vector_operation(NewStore))
    async def create_store(request: AnyRequest) -> StoreObject:
        async with open_vectors(deps, request) as session:
            new = await read_wanted(request, NewStore)
            store = await _create(session, deps.models, new)
            wanted = [NewStoreFile(file_id=file_id) for file_id in dict.fromkeys(new.file_ids)]
            files = await attach_all(session, store, wanted, "") if wanted else []
            return describe_store(store, files, time.time())

    @get(STORES, summary="List your organisation's vector stores", operation_class=VectorOperation)
    async def list_stores(
        request: AnyRequest,
        after: Annotated[str, QueryParameter(description="Go on after this id.")] = "",
        before: Annotated[str, QueryParameter(description="Go back before this id.")] = "",
        limit: Annotated[int, QueryParameter(description="At most so many: 1 to 100.")] = 20,
        order: Annotated[str, QueryParameter(description="By creation: desc or asc.")] = "desc",
    ) -> StoreList:
        async with open_vectors(deps, request) as (identity, door):
            stores, files = await door.book.stores(identity.tenant), await door.book.files(identity.tenant)
            page, more = page_of(stores, lambda one: one.id, after=after, before=before, limit=limit, order=order)
            data = [describe_store(one, files, time.time()) for one in page]
            first, last = (data[0].id, data[-1].id) if data else (None, None)
            return StoreList(data=data, first_id=first, last_id=last, has_more=more)

    @get(STORE, summary="Describe a vector store", operation_class=VectorOperation)
    async def retrieve_store(request: AnyRequest, vector_store_id: FromPath[str]) -> StoreObject:
        async with open_vectors(deps, request) as session:
            return await _described(session, await session.door.book.store(session.identity.tenant, vector_store_id))

    @post(STORE, status_code=200, summary="Change a vector store", operation_class=vector_operation(StoreChange))
    async def change_store(request: AnyRequest, vector_store_id: FromPath[str]) -> StoreObject:
        async with open_vectors(deps, request) as session:
            changes = _changes_of(await read_wanted(request, StoreChange))
            await session.door.open_store(session.identity.tenant, vector_store_id, time.time())
            store = await session.door.book.change_store(
                session.identity.tenant, vector_store_id, lambda now: msgspec.structs.replace(now, **changes)
            )
            return await _described(session, store)

    @delete(STORE, status_code=200, summary="Delete a vector store", operation_class=VectorOperation)
    async def delete_store(request: AnyRequest, vector_store_id: FromPath[str]) -> StoreDeleted:
        async with open_vectors(deps, request) as (identity, door):
            store = await door.book.store(identity.tenant, vector_store_id)
            with contextlib.suppress(NotFound):  # deleted by somebody who got no further
                await door.manage(identity, verbs.DELETE, verbs.OneCollection(name=store.id), CollectionRecord)
            for file in await door.book.files(identity.tenant, store.id):
                await door.book.forget(file)
            await door.book.forget(store)
            return StoreDeleted(id=store.id)

    return create_store, list_stores, retrieve_store, change_store, delete_store


def _build_search(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        f"{STORE}/search",
        status_code=200,
        summary="Search a vector store",
        operation_class=vector_operation(StoreSearch),
    )
    async def search_store(request: AnyRequest, vector_store_id: FromPath[str]) -> StoreResults:
        async with open_vectors(deps, request) as (identity, door):
            wanted = await read_wanted(request, StoreSearch)
            queries = [wanted.query] if isinstance(wanted.query, str) else wanted.query
            _check(wanted, queries)
            now = time.time()
            store = await door.open_store(identity.tenant, vector_store_id, now)
            if now - store.active > _NOTED_S:
                await door.book.change_store(
                    identity.tenant, store.id, lambda held: msgspec.structs.replace(held, active=now)
                )
            asked = _search_of(wanted)
            found: list[Hit] = []
            for query in queries:
                answer = await door.search(identity, store.id, msgspec.structs.replace(asked, text=query))
                found += answer.hits
            return StoreResults(search_query=queries, data=hits_of(found, wanted.max_num_results))

    return (search_store,)


def _check(wanted: StoreSearch, queries: list[str]) -> None:
    if not queries or not all(query.strip() for query in queries):
        raise InvalidRequest("query is empty", param="query")
    if not 1 <= wanted.max_num_results <= _MAX_RESULTS:
        raise InvalidRequest(f"max_num_results is from 1 to {_MAX_RESULTS}", param="max_num_results")


def _search_of(wanted: StoreSearch) -> SearchRequest:
    ranking = wanted.ranking_options
    return SearchRequest(
        limit=wanted.max_num_results, filter=filter_of(wanted.filters) if wanted.filters is not None else None,
        threshold=ranking.score_threshold if ranking is not None and ranking.score_threshold > 0 else None,
    )  # fmt: skip


def filter_of(said: AttributeFilter) -> Filter:
    """Give a filter of attributes as one of the payload. Pure."""
    if said.type in COMPOUNDS:
        return Filter(type=said.type, filters=[filter_of(one) for one in said.filters])
    return Filter(type=said.type, key=f"attributes.{said.key}", value=said.value)


class _Payload(msgspec.Struct):
    file_id: str = ""
    filename: str = ""
    attributes: dict[str, Any] = {}


def hits_of(found: list[Hit], most: int) -> list[StoreHit]:
    """Give hits as the API has them: each chunk once, the best first. Pure."""
    best: dict[tuple[str, int], Hit] = {}
    for hit in found:
        key = (hit.id, hit.chunk)
        if key not in best or hit.score > best[key].score:
            best[key] = hit
    ranked = sorted(best.values(), key=lambda hit: -hit.score)[:most]
    return [_hit(hit, msgspec.json.decode(hit.payload, type=_Payload)) for hit in ranked]


def _hit(hit: Hit, payload: _Payload) -> StoreHit:
    return StoreHit(
        file_id=payload.file_id or hit.id, filename=payload.filename, score=hit.score, attributes=payload.attributes,
        content=[TextContent(text=hit.text)],
    )  # fmt: skip


async def _create(session: Session, models: ModelLister, new: NewStore) -> StoreRecord:
    identity, door = session
    now, chunking = time.time(), chunking_of(new.chunking_strategy) or AUTO
    store = StoreRecord(
        id=f"vs_{secrets.token_hex(12)}", tenant=identity.tenant, model=new.model or embedding_model(identity, models),
        created=now, name=new.name or "", description=new.description or "",
        metadata=checked_pairs(new.metadata, "metadata"), expires_days=_days(new.expires_after), active=now,
        key_id=identity.key_id,
    )  # fmt: skip
    wanted = verbs.CreateCollection(name=store.id, model=store.model, fields=[Field(name="file_id")], chunking=chunking)
    await door.manage(identity, verbs.CREATE, wanted, CollectionRecord)
    await door.book.add(store)
    return store


def embedding_model(identity: Identity, models: ModelLister) -> str:
    """Choose for whoever names none: the first model that embeds and is open to this key.

    Raises:
        InvalidRequest: there is none.
    """
    for entry in sorted(models.all(), key=lambda one: (one.created, one.name)):
        if "embeddings" in entry.tasks and may_use(identity, entry):
            return entry.name
    raise InvalidRequest("no embedding model is there for this key; name one in `model`", param="model")


def _days(said: ExpiresAfter | None) -> int:
    if said is None:
        return 0
    if said.anchor != "last_active_at" or not 1 <= said.days <= _MAX_DAYS:
        raise InvalidRequest(f"expires_after is 1 to {_MAX_DAYS} days after last_active_at", param="expires_after")
    return said.days


def _changes_of(change: StoreChange) -> dict[str, Any]:
    found: dict[str, Any] = {"active": time.time()}
    if change.name is not None:
        found["name"] = change.name
    if change.metadata is not None:
        found["metadata"] = checked_pairs(change.metadata, "metadata")
    if change.expires_after is not None:
        found["expires_days"] = _days(change.expires_after)
    return found


async def _described(session: Session, store: StoreRecord) -> StoreObject:
    files = await session.door.book.files(session.identity.tenant, store.id)
    session.door.store_files.look_after(session.identity, files)
    return describe_store(store, files, time.time())
