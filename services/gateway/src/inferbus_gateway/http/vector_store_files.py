"""Files of /v1/vector_stores, one by one and in batches: put in, followed, changed, taken out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.vector_stores import CANCELLED, IN_PROGRESS, Attribute, StoreFile
from inferbus.errors import InvalidRequest, NotFound
from inferbus_gateway.http.admin_request import read_wanted
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.vector_operations import Session, VectorOperation, open_vectors, vector_operation
from inferbus_gateway.http.vector_store_attaching import attach_all, checked_attributes, see_to_fields
from inferbus_gateway.http.vector_store_pages import page_of
from inferbus_gateway.http.vector_store_shapes import (
    FileBatchObject,
    FileTexts,
    NewFileBatch,
    NewStoreFile,
    StoreFileChange,
    StoreFileDeleted,
    StoreFileList,
    StoreFileObject,
    TextContent,
    describe_batch,
    describe_store_file,
    is_open,
)
from inferbus_gateway.vector_store_files import of_file

STORES = "/v1/vector_stores"
STORE = f"{STORES}/{{vector_store_id:str}}"
_FILES, _FILE = f"{STORE}/files", f"{STORE}/files/{{file_id:str}}"
_BATCHES, _BATCH = f"{STORE}/file_batches", f"{STORE}/file_batches/{{batch_id:str}}"
_MAX_FILES = 2000

After = Annotated[str, QueryParameter(description="Go on after this id.")]
Before = Annotated[str, QueryParameter(description="Go back before this id.")]
Limit = Annotated[int, QueryParameter(description="At most so many: 1 to 100.")]
Order = Annotated[str, QueryParameter(description="By creation: desc or asc.")]
Status = Annotated[str, QueryParameter(name="filter", description="Only those of this status.")]


def build_store_files(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    return [*_build_files(deps), *_build_one(deps), *_build_batches(deps)]


def _build_files(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        _FILES, status_code=200, summary="Put a file's text into a vector store",
        operation_class=vector_operation(NewStoreFile),
    )  # fmt: skip
    async def attach_file(request: AnyRequest, vector_store_id: FromPath[str]) -> StoreFileObject:
        async with open_vectors(deps, request) as session:
            new = await read_wanted(request, NewStoreFile)
            store = await session.door.open_store(session.identity.tenant, vector_store_id, time.time())
            return describe_store_file((await attach_all(session, store, [new], ""))[0])

    @get(_FILES, summary="List the files of a vector store", operation_class=VectorOperation)
    async def list_store_files(
        request: AnyRequest,
        vector_store_id: FromPath[str],
        after: After = "",
        before: Before = "",
        limit: Limit = 20,
        order: Order = "desc",
        status: Status = "",
    ) -> StoreFileList:
        async with open_vectors(deps, request) as (identity, door):
            store = await door.book.store(identity.tenant, vector_store_id)
            files = [one for one in await door.book.files(identity.tenant, store.id) if status in ("", one.status)]
            door.store_files.look_after(identity, files)
            return _listed(files, after, before, limit, order)

    return attach_file, list_store_files


def _build_one(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(_FILE, summary="How a file of a vector store is doing", operation_class=VectorOperation)
    async def retrieve_store_file(
        request: AnyRequest, vector_store_id: FromPath[str], file_id: FromPath[str]
    ) -> StoreFileObject:
        async with open_vectors(deps, request) as (identity, door):
            file = await door.book.file(identity.tenant, vector_store_id, file_id)
            door.store_files.look_after(identity, [file])
            return describe_store_file(file)

    @post(
        _FILE, status_code=200, summary="Change a file's attributes", operation_class=vector_operation(StoreFileChange)
    )
    async def change_store_file(
        request: AnyRequest, vector_store_id: FromPath[str], file_id: FromPath[str]
    ) -> StoreFileObject:
        async with open_vectors(deps, request) as session:
            identity, door = session
            file = await door.book.file(identity.tenant, vector_store_id, file_id)
            attributes = checked_attributes((await read_wanted(request, StoreFileChange)).attributes)
            await see_to_fields(session, file.store, attributes)
            changed = await door.book.change_file(file, lambda now: _again(now, attributes))
            if changed is None:
                raise NotFound(f"No file '{file_id[:80]}' in the vector store.", param="file_id")
            door.store_files.begin(identity, changed)
            return describe_store_file(changed)

    @delete(_FILE, status_code=200, summary="Take a file out of a vector store", operation_class=VectorOperation)
    async def detach_file(
        request: AnyRequest, vector_store_id: FromPath[str], file_id: FromPath[str]
    ) -> StoreFileDeleted:
        async with open_vectors(deps, request) as (identity, door):
            file = await door.book.file(identity.tenant, vector_store_id, file_id)
            await door.store_files.remove(identity, file)
            await door.book.forget(file)
            return StoreFileDeleted(id=file_id)

    @get(f"{_FILE}/content", summary="A file's text, chunk by chunk", operation_class=VectorOperation)
    async def store_file_content(
        request: AnyRequest, vector_store_id: FromPath[str], file_id: FromPath[str]
    ) -> FileTexts:
        async with open_vectors(deps, request) as (identity, door):
            file = await door.book.file(identity.tenant, vector_store_id, file_id)
            found: list[verbs.StoredChunk] = []
            after = ""
            while True:
                wanted = verbs.Scroll(name=file.store, filter=of_file(file.file_id), after=after, limit=1000)
                page = await door.manage(identity, verbs.SCROLL, wanted, verbs.Page)
                found += page.chunks
                after = page.next
                if not after:
                    break
            found.sort(key=lambda one: (int(one.id.rpartition("-")[2]), one.chunk))
            return FileTexts(data=[TextContent(text=one.text) for one in found])

    return retrieve_store_file, change_store_file, detach_file, store_file_content


def _build_batches(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        _BATCHES, status_code=200, summary="Put several files into a vector store",
        operation_class=vector_operation(NewFileBatch),
    )  # fmt: skip
    async def attach_files(request: AnyRequest, vector_store_id: FromPath[str]) -> FileBatchObject:
        async with open_vectors(deps, request) as session:
            new = await read_wanted(request, NewFileBatch)
            store = await session.door.open_store(session.identity.tenant, vector_store_id, time.time())
            same = [
                NewStoreFile(file_id=one, attributes=new.attributes, chunking_strategy=new.chunking_strategy)
                for one in dict.fromkeys(new.file_ids)
            ]
            wanted = same or new.files
            if not 1 <= len(wanted) <= _MAX_FILES or (same and new.files):
                raise InvalidRequest(f"name 1 to {_MAX_FILES} files, in file_ids or in files", param="file_ids")
            batch = f"vsfb_{secrets.token_hex(12)}"
            return describe_batch(batch, store.id, await attach_all(session, store, wanted, batch))

    @get(_BATCH, summary="How a batch of files is doing", operation_class=VectorOperation)
    async def retrieve_file_batch(
        request: AnyRequest, vector_store_id: FromPath[str], batch_id: FromPath[str]
    ) -> FileBatchObject:
        async with open_vectors(deps, request) as session:
            files = await _of_batch(session, vector_store_id, batch_id)
            session.door.store_files.look_after(session.identity, files)
            return describe_batch(batch_id, vector_store_id, files)

    @post(f"{_BATCH}/cancel", status_code=200, summary="Put no more of them in", operation_class=VectorOperation)
    async def cancel_file_batch(
        request: AnyRequest, vector_store_id: FromPath[str], batch_id: FromPath[str]
    ) -> FileBatchObject:
        async with open_vectors(deps, request) as session:
            files = await _of_batch(session, vector_store_id, batch_id)
            for file in filter(is_open, files):
                await session.door.book.change_file(file, _cancelled)
            return describe_batch(batch_id, vector_store_id, await _of_batch(session, vector_store_id, batch_id))

    @get(f"{_BATCH}/files", summary="The files of a batch", operation_class=VectorOperation)
    async def list_batch_files(
        request: AnyRequest,
        vector_store_id: FromPath[str],
        batch_id: FromPath[str],
        after: After = "",
        before: Before = "",
        limit: Limit = 20,
        order: Order = "desc",
        status: Status = "",
    ) -> StoreFileList:
        async with open_vectors(deps, request) as session:
            files = await _of_batch(session, vector_store_id, batch_id)
            return _listed([one for one in files if status in ("", one.status)], after, before, limit, order)

    return attach_files, retrieve_file_batch, cancel_file_batch, list_batch_files


def _listed(files: list[StoreFile], after: str, before: str, limit: int, order: str) -> StoreFileList:
    page, more = page_of(files, lambda one: one.file_id, after=after, before=before, limit=limit, order=order)
    data = [describe_store_file(one) for one in page]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return StoreFileList(data=data, first_id=first, last_id=last, has_more=more)


async def _of_batch(session: Session, store: str, batch: str) -> list[StoreFile]:
    files = await session.door.book.files(session.identity.tenant, store)
    found = [one for one in files if batch and one.batch == batch]
    if not found:
        raise NotFound(f"No batch '{batch[:80]}' in the vector store '{store[:80]}'.", param="batch_id")
    return found


def _again(now: StoreFile, attributes: dict[str, Attribute]) -> StoreFile:
    return msgspec.structs.replace(
        now, attributes=attributes, status=IN_PROGRESS, updated=time.time(), error_code="", error=""
    )


def _cancelled(now: StoreFile) -> StoreFile | None:
    return msgspec.structs.replace(now, status=CANCELLED, updated=time.time()) if is_open(now) else None
