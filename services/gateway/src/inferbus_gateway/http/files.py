"""/v1/files, as the OpenAI API has it: uploads stream into the storage, contents out of it. A file is its tenant's alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, cast

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from inferbus.admission.identity import Identity
from inferbus.contracts.files import ASSISTANTS, BATCH_INPUT, BATCH_OUTPUT, USER_DATA, FileRecord
from inferbus.errors import Cancelled, Forbidden, InferbusError, InvalidRequest, Overloaded, TooLarge
from inferbus.files.book import DESC, NewFile, Page
from inferbus.files.limits import check_room
from inferbus.routes import BATCH
from inferbus_gateway.batch_door import BatchDoor, opened
from inferbus_gateway.http.exchange_response import HttpResponse
from inferbus_gateway.http.file_content import send_content
from inferbus_gateway.http.file_operations import ContentOperation, FilesOperation, UploadOperation
from inferbus_gateway.http.file_shapes import FileDeleted, FileList, FileObject, describe_file
from inferbus_gateway.http.file_upload import Upload
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.problems import bug
from inferbus_gateway.http.request_body import ClientGone
from inferbus_gateway.http.requests import RECORD
from inferbus_gateway.observer import RequestRecord

MAX_PAGE = 10_000
_FORM_BYTES = 64 * 1024
_EXPIRY_S = (3600, 2_592_000)
_ANCHOR = "created_at"
_PURPOSES = (BATCH_INPUT, ASSISTANTS, USER_DATA)


def build_files(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    uploads = UploadEndpoint(deps)

    @post("/v1/files", status_code=200, sync_to_thread=False, summary="Upload a file", operation_class=UploadOperation)
    def upload_file() -> ASGIApp:
        return cast("ASGIApp", uploads)

    @get("/v1/files", summary="List your organisation's files", operation_class=FilesOperation)
    async def list_files(
        request: AnyRequest,
        after: Annotated[str, QueryParameter(description="Go on after the file with this id.")] = "",
        limit: Annotated[int, QueryParameter(description="At most so many: 1 to 10,000.")] = MAX_PAGE,
        order: Annotated[str, QueryParameter(description="By creation: asc or desc.")] = DESC,
        purpose: Annotated[str, QueryParameter(description="Only those of this purpose.")] = "",
    ) -> FileList:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"limit is {limit}; it must be from 1 to {MAX_PAGE}", param="limit")
        page = Page(after=after, limit=limit, order=order, purpose=purpose)
        found, more = await opened(deps.batch).files.page(identity.tenant, page)
        data = [describe_file(record) for record in found]
        return FileList(
            data=data, has_more=more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None
        )

    @get("/v1/files/{file_id:str}", summary="Describe a file", operation_class=FilesOperation)
    async def retrieve_file(request: AnyRequest, file_id: FromPath[str]) -> FileObject:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        return describe_file(await opened(deps.batch).files.get(identity.tenant, file_id))

    @get(
        "/v1/files/{file_id:str}/content", sync_to_thread=False, summary="The content of a file, or a range of it",
        operation_class=ContentOperation,
    )  # fmt: skip
    def file_content(file_id: FromPath[str]) -> ASGIApp:
        return cast("ASGIApp", ContentEndpoint(deps, file_id))

    @delete("/v1/files/{file_id:str}", status_code=200, summary="Delete a file", operation_class=FilesOperation)
    async def delete_file(request: AnyRequest, file_id: FromPath[str]) -> FileDeleted:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        await opened(deps.batch).files.delete(identity.tenant, file_id)
        return FileDeleted(id=file_id)

    return upload_file, list_files, retrieve_file, file_content, delete_file


class UploadEndpoint:
    """Take uploads: an ASGI application, since the body must not be read before it is known where it goes."""

    def __init__(self, deps: HttpDeps) -> None:
        self._deps = deps
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        record: RequestRecord = scope["state"][RECORD]
        response = HttpResponse(send, record)
        upload: Upload | None = None
        self._open += 1
        try:
            identity, door = self._admit(headers, record)
            await check_room(door.files, identity.tenant, 0, door.settings)
            upload = Upload(receive, headers.get(b"content-type", ""), idle_s=door.settings.upload_idle_s)
            made = await self._take(identity, door, upload)
            await response.whole(200, msgspec.json.encode(describe_file(made)))
            record.status = 200
        except ClientGone:
            record.error, record.status = Cancelled.code, 499
        except InferbusError as error:
            if upload is not None and upload.complete:
                await response.fail(error)
            else:
                await response.refuse_body(error, receive)
        except Exception as error:
            await response.fail(bug(error, request_id=record.request_id, path="/v1/files"))
        finally:
            self._open -= 1

    def _admit(self, headers: dict[bytes, str], record: RequestRecord) -> tuple[Identity, BatchDoor]:
        """Refuse what can be refused before anything of the body is read."""
        deps = self._deps
        identity = deps.authenticator.authenticate(headers.get(b"authorization"))
        record.tenant = identity.tenant
        door = opened(deps.batch)
        if BATCH not in identity.lanes:
            raise Forbidden("the batch lane is not open to this key", param="lane")
        if self._open > door.settings.max_uploads:
            raise Overloaded(f"this gateway has its {door.settings.max_uploads} uploads")
        length, limit = headers.get(b"content-length", ""), door.settings.max_file_bytes
        if length.isdecimal() and int(length) > limit + _FORM_BYTES:
            raise TooLarge(f"the upload is {length} bytes, the limit for a file is {limit} bytes", param="file")
        return identity, door

    async def _take(self, identity: Identity, door: BatchDoor, upload: Upload) -> FileRecord:
        """Store the file, then see what is said of it: that may come behind it."""
        files = door.files
        stored = await files.store(identity.tenant, upload.pieces(), limit_bytes=door.settings.max_file_bytes)
        try:
            await upload.finish()
            await check_room(files, identity.tenant, stored.written.bytes, door.settings)
            new = new_file_of(upload, identity, now=int(time.time()), default_s=door.settings.default_expiry_s)
        except BaseException:
            await files.drop(stored)
            raise
        return await files.keep(new, stored)


def new_file_of(upload: Upload, identity: Identity, *, now: int, default_s: int) -> NewFile:
    """Read the fields of an upload.

    Raises:
        InvalidRequest: one is missing or impossible; `param` names it.
    """
    fields = upload.fields
    purpose = fields.get("purpose", "")
    if purpose not in _PURPOSES:
        what = f"purpose {purpose[:40]!r} is not supported" if purpose else "purpose is missing"
        raise InvalidRequest(
            f"{what}; it must be one of {', '.join(_PURPOSES)} ({BATCH_OUTPUT} files are made by jobs)", param="purpose"
        )
    anchor, seconds = fields.get("expires_after[anchor]", ""), fields.get("expires_after[seconds]", "")
    keep_s = default_s if purpose == BATCH_INPUT else 0  # what a vector store shows stays until it is deleted
    if anchor or seconds:
        keep_s = checked_expiry(anchor, int(seconds) if seconds.isdecimal() else 0, "expires_after")
    return NewFile(
        tenant=identity.tenant,
        purpose=purpose, filename=upload.filename[:255] or "file", expires_at=now + keep_s if keep_s else 0,
        key_id=identity.key_id,
    )  # fmt: skip


def checked_expiry(anchor: str, seconds: int, param: str) -> int:
    """Raises InvalidRequest where something is to expire otherwise than an hour to 30 days after its creation."""
    least, most = _EXPIRY_S
    if anchor != _ANCHOR:
        raise InvalidRequest(f"anchor must be {_ANCHOR}", param=f"{param}.anchor")
    if not least <= seconds <= most:
        raise InvalidRequest(f"seconds must be a whole number from {least} to {most}", param=f"{param}.seconds")
    return seconds


class ContentEndpoint:
    """Send one file's content: an ASGI application, as it may be long."""

    def __init__(self, deps: HttpDeps, file_id: str) -> None:
        self._deps = deps
        self._file_id = file_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        record: RequestRecord = scope["state"][RECORD]
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            identity = self._deps.authenticator.authenticate(headers.get(b"authorization"))
            record.tenant = identity.tenant
            files = opened(self._deps.batch).files
            file = await files.get(identity.tenant, self._file_id)
            await send_content(files, file, headers.get(b"range"), noting)
        except InferbusError as error:
            if started:  # the connection ends, so that nobody takes what came for all of it
                raise
            await HttpResponse(send, record).fail(error)
