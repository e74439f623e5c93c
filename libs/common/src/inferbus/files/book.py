"""FileBook: what every tenant has of files. The record, in the bucket `files`, is what makes a file exist.

A body is stored before its record and forgotten after it: what a crash leaves behind is a body nobody knows, which
`purging` takes away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.files import FileRecord
from inferbus.errors import Conflict, InvalidRequest, NotFound, StorageDown
from inferbus.files.names import body_of_file, is_file_id, new_file_id
from inferbus.files.ports import Storage, Written

ASC, DESC = "asc", "desc"


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a file. `expires_at` is a Unix time, 0: never."""

    tenant: str
    purpose: str
    filename: str
    expires_at: int = 0
    key_id: str = ""


class StoredBody(msgspec.Struct, frozen=True, kw_only=True):
    """A body that is stored under the id of a file that is not there yet."""

    file_id: str
    body: str
    written: Written


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list. `after` is the id of the last one of the page before."""

    after: str = ""
    limit: int = 100
    order: str = DESC
    purpose: str = ""


class FileBook:
    """Files of all tenants; whoever asks, asks for one tenant's."""

    def __init__(self, bus: Bus, storage: Storage) -> None:
        self._bus = bus
        self.storage = storage

    async def store(self, tenant: str, pieces: AsyncIterable[bytes], *, limit_bytes: int = 0) -> StoredBody:
        """Store a body for a file of a tenant's.

        Raises:
            TooLarge: more than `limit_bytes` (0: any number) came. StorageDown: it is not stored. What `pieces` raises.
        """
        file_id = new_file_id()
        body = body_of_file(tenant, file_id)
        written = await self.storage.write(body, pieces, limit_bytes=limit_bytes)
        return StoredBody(file_id=file_id, body=body, written=written)

    async def keep(self, new: NewFile, stored: StoredBody) -> FileRecord:
        """Make a stored body a file. Where that fails it may be one all the same: the body stays, and is purged if not.

        Raises:
            DependencyDown: the bus is away.
        """
        record = FileRecord(
            id=stored.file_id, tenant=new.tenant, purpose=new.purpose, filename=new.filename, bytes=stored.written.bytes,
            sha256=stored.written.sha256, body=stored.body, created_at=int(time.time()), expires_at=new.expires_at,
            key_id=new.key_id,
        )  # fmt: skip
        return await self.add(record)

    async def create(self, new: NewFile, pieces: AsyncIterable[bytes], *, limit_bytes: int = 0) -> FileRecord:
        """Store a body and make it a file. Raises as `store` and `keep`."""
        return await self.keep(new, await self.store(new.tenant, pieces, limit_bytes=limit_bytes))

    async def drop(self, stored: StoredBody) -> None:
        """Remove a body that is not to be a file after all; where the storage is away, purging does it."""
        with contextlib.suppress(StorageDown):
            await self.storage.delete(stored.body)

    async def add(self, record: FileRecord) -> FileRecord:
        """Make a body that is stored a file, once: of two records with one id the first one counts.

        Raises:
            DependencyDown: the bus is away; the record may be in all the same.
        """
        if await revisions.write(self._bus, routes.KV_FILES, _key(record.tenant, record.id), to_json(record), 0):
            return record
        held = await revisions.read(self._bus, routes.KV_FILES, _key(record.tenant, record.id))
        if held.data is None:
            raise Conflict(f"{record.id} was deleted", param="id")
        return from_json(held.data, FileRecord, what=record.id)

    async def get(self, tenant: str, file_id: str) -> FileRecord:
        """Find a file.

        Raises:
            NotFound: this tenant has none of this id, or it has expired. DependencyDown: the bus does not answer.
        """
        if not is_file_id(file_id):
            raise _unknown(file_id)
        held = await revisions.read(self._bus, routes.KV_FILES, _key(tenant, file_id))
        if held.data is None:
            raise _unknown(file_id)
        record = from_json(held.data, FileRecord, what=file_id)
        if is_expired(record, time.time()):
            raise _unknown(file_id)
        return record

    async def page(self, tenant: str, page: Page) -> tuple[list[FileRecord], bool]:
        """Give a page of a tenant's files, newest first unless asked otherwise, and whether there are more.

        Raises:
            InvalidRequest: there is no such order, or no file `after` names. DependencyDown: the bus does not answer.
        """
        return page_of(await self.all_of(tenant), page, time.time())

    def read(self, record: FileRecord, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Read a file's body from an offset on. Raises as `Storage.read`."""
        return self.storage.read(record.body, start, length)

    async def delete(self, tenant: str, file_id: str) -> None:
        """Forget a file and remove its body.

        Raises:
            NotFound: there is none. DependencyDown: the bus does not answer; asking again is safe.
        """
        if not is_file_id(file_id):
            raise _unknown(file_id)
        held = await revisions.read(self._bus, routes.KV_FILES, _key(tenant, file_id))
        if held.data is None:
            raise _unknown(file_id)
        record = from_json(held.data, FileRecord, what=file_id)
        await revisions.write(self._bus, routes.KV_FILES, _key(tenant, file_id), None, held.revision)
        await self.storage.delete(record.body)

    async def all_of(self, tenant: str) -> list[FileRecord]:
        """Give a tenant's files, expired ones included. Raises DependencyDown: the bus does not answer."""
        found = await revisions.read_all(self._bus, routes.KV_FILES, f"{tenant}.")
        return [from_json(data, FileRecord, what="file") for data in found]


def page_of(records: list[FileRecord], page: Page, now: float) -> tuple[list[FileRecord], bool]:
    """Cut a page out of a tenant's files; also says whether there are more. Pure."""
    if page.order not in (ASC, DESC):
        raise InvalidRequest(f"order is {ASC} or {DESC}", param="order")
    ordered = sorted(records, key=lambda one: (one.created_at, one.id), reverse=page.order == DESC)
    if page.after:
        places = [place for place, one in enumerate(ordered) if one.id == page.after]
        if not places:
            raise InvalidRequest(f"there is no file {page.after[:80]!r} to go on after", param="after")
        ordered = ordered[places[0] + 1 :]
    wanted = [one for one in ordered if not is_expired(one, now) and page.purpose in ("", one.purpose)]
    return wanted[: page.limit], len(wanted) > page.limit


def is_expired(record: FileRecord, now: float) -> bool:
    return 0 < record.expires_at <= now


def _key(tenant: str, file_id: str) -> str:
    return f"{tenant}.{file_id}"


def _unknown(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id[:80]}", param="id")
