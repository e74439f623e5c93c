"""StoreFiles: has the text of files put into vector stores, and says how far it is.

The work runs in the gateway that was asked. Its state is in the file's record, and every step may be done again (ids
follow from the file), so that another gateway takes up what one left lying.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import msgspec
import structlog

from inferbus.admission.identity import Identity
from inferbus.codec import to_json
from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.files import FileRecord
from inferbus.contracts.vector_search import EQ, Filter
from inferbus.contracts.vector_stores import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    INVALID_FILE,
    SERVER_ERROR,
    UNSUPPORTED_FILE,
    StoreFile,
)
from inferbus.contracts.vectors import Document, IndexReport
from inferbus.errors import InferbusError, Permanent
from inferbus.files.book import FileBook
from inferbus.vectors.door import VectorsDoor
from inferbus_gateway.vector_store_book import VectorStoreBook

SECTION_CHARS = 64_000
"""Longer texts become several documents, so that no message is large."""
MAX_BYTES = 64 * 1024 * 1024
STALE_S = 60.0
_BEAT_S, _REPORT_S = 15.0, 900.0
log = structlog.get_logger()


class Unfit(Exception):
    """A file no text can be had from; `code` is the OpenAI API's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoreFiles:
    """One per gateway."""

    def __init__(self, door: VectorsDoor, files: FileBook, book: VectorStoreBook) -> None:
        self._door = door
        self._files = files
        self._book = book
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}

    def begin(self, identity: Identity, file: StoreFile) -> None:
        """Work on a file, unless this gateway does already."""
        key = (file.tenant, file.store, file.file_id)
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.create_task(self._work(identity, file))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    def look_after(self, identity: Identity, files: list[StoreFile]) -> None:
        """Take up those that whoever worked on them left lying."""
        now = time.time()
        for file in files:
            if file.status == IN_PROGRESS and now - file.updated > STALE_S:
                self.begin(identity, file)

    async def stop(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def remove(self, identity: Identity, file: StoreFile) -> None:
        """Take a file's text out of its store."""
        wanted = verbs.Erase(name=file.store, filter=of_file(file.file_id))
        await self._door.manage(identity, verbs.ERASE, wanted, verbs.Erased)

    async def _work(self, identity: Identity, file: StoreFile) -> None:
        beating = asyncio.create_task(self._beat(file))
        try:
            chunks = await self._index(identity, file)
            await self._book.change_file(file, lambda now: _ended(now, COMPLETED, chunks=chunks))
        except Unfit as exc:
            await self._fail(file, exc.code, str(exc))
        except InferbusError as exc:
            await self._fail(file, INVALID_FILE if isinstance(exc, Permanent) else SERVER_ERROR, exc.message)
        except Exception:  # whatever it was, the file says that it failed instead of being in progress for ever
            log.exception("store_file_crashed", tenant=file.tenant, store=file.store, file=file.file_id)
            await self._fail(file, SERVER_ERROR, "an internal error; the gateway's log has the details")
        finally:
            beating.cancel()

    async def _index(self, identity: Identity, file: StoreFile) -> int:
        """Give how many chunks were made of it."""
        record = await self._files.get(identity.tenant, file.file_id)
        documents = list(documents_of(file, await self._text_of(record)))
        accepted = await self._door.index(identity, file.store, documents, wait_s=_REPORT_S)
        report = accepted.report
        if report is None:
            raise Unfit(SERVER_ERROR, f"it was not indexed within {_REPORT_S:g} s; attach it again")
        check_report(report)
        return report.chunks

    async def _text_of(self, record: FileRecord) -> str:
        if record.bytes > MAX_BYTES:
            raise Unfit(INVALID_FILE, f"the file is {record.bytes} bytes, the limit is {MAX_BYTES} bytes")
        data = b"".join([piece async for piece in self._files.read(record)])
        return text_of(data)

    async def _fail(self, file: StoreFile, code: str, message: str) -> None:
        try:
            await self._book.change_file(file, lambda now: _ended(now, FAILED, code=code, error=message))
        except InferbusError as exc:  # the next who looks takes it up
            log.warning("store_file_not_noted", store=file.store, file=file.file_id, error=exc.message)

    async def _beat(self, file: StoreFile) -> None:
        while True:
            try:
                await self._book.change_file(file, _alive)
            except InferbusError as exc:
                log.debug("store_file_beat_failed", file=file.file_id, error=exc.message)
            await asyncio.sleep(_BEAT_S)


def of_file(file_id: str) -> Filter:
    return Filter(type=EQ, key="file_id", value=file_id)


def check_report(report: IndexReport) -> None:
    """Raises Unfit where some of a file was not indexed."""
    if report.error:
        raise Unfit(SERVER_ERROR, report.message or report.error)
    if report.faults:
        raise Unfit(INVALID_FILE, report.faults[0].message)


def text_of(data: bytes) -> str:
    """Read a file as text. Pure.

    Raises:
        Unfit: it is none, or has none.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Unfit(UNSUPPORTED_FILE, f"the file is no UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    if "\x00" in text:
        raise Unfit(UNSUPPORTED_FILE, "the file is no text: it has zero bytes")
    if not text.strip():
        raise Unfit(INVALID_FILE, "the file has no text")
    return text


def documents_of(file: StoreFile, text: str) -> Iterator[Document]:
    """Make a file's documents: sections of a size that travels well, cut between lines where there are some. Pure."""
    payload = {"file_id": file.file_id, "filename": file.filename, "attributes": file.attributes}
    raw = msgspec.Raw(to_json(payload))
    for n, section in enumerate(sections(text, SECTION_CHARS)):
        yield Document(id=f"{file.file_id}-{n}", text=section, payload=raw, chunking=file.chunking)


def sections(text: str, most: int) -> Iterator[str]:
    """Cut a text into pieces of at most `most` characters that give it again, at line ends where possible. Pure."""
    start = 0
    while start < len(text):
        end = min(len(text), start + most)
        if end < len(text):
            end = (text.rfind("\n", start, end) + 1) or end
        piece = text[start:end]
        if piece.strip():
            yield piece
        start = end


def _alive(now: StoreFile) -> StoreFile | None:
    return None if now.status != IN_PROGRESS else msgspec.structs.replace(now, updated=time.time())


def _ended(now: StoreFile, status: str, *, chunks: int = 0, code: str = "", error: str = "") -> StoreFile | None:
    if now.status == CANCELLED:
        return None
    return msgspec.structs.replace(
        now, status=status, chunks=chunks, error_code=code, error=error[:1000], updated=time.time()
    )
