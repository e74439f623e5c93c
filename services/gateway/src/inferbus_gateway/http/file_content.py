"""A file's content as an HTTP response: streamed from the storage, whole or the one range that is asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from litestar.types import Send

from inferbus.contracts.files import FileRecord
from inferbus.errors import NotFound
from inferbus.files.book import FileBook
from inferbus_gateway.http.problems import JSON

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_UNSATISFIABLE = (
    b'{"error":{"message":"the file has no such bytes","type":"invalid_request_error","param":"Range","code":null}}'
)


class Part:
    """The bytes to send, from `start` up to but not `end`."""

    def __init__(self, start: int, end: int, *, whole: bool) -> None:
        self.start, self.end, self.whole = start, end, whole


def part_of(header: str | None, size: int) -> Part | None:
    """Read a Range header; None: there is no such part. What is no single range of bytes is ignored (RFC 9110)."""
    whole = Part(0, size, whole=True)
    match = _RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return whole
    first, last = match[1], match[2]
    if not first:  # the last so many
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return whole
    return Part(start, end, whole=False) if start < end else None


async def send_content(book: FileBook, record: FileRecord, wanted: str | None, send: Send) -> None:
    """Send a file, or the part of it that is wanted.

    Raises:
        StorageDown, NotFound: before anything was sent. Anything raised later must end the connection: what the client
        has is not all of it.
    """
    part = part_of(wanted, record.bytes)
    headers = [
        (b"accept-ranges", b"bytes"),
        (b"etag", f'"{record.sha256}"'.encode()),
        (b"content-disposition", f'attachment; filename="{record.id}"'.encode()),
    ]
    if part is None:
        ranges = (b"content-range", b"bytes */%d" % record.bytes)
        await _head(send, 416, [(b"content-type", JSON), (b"content-length", b"%d" % len(_UNSATISFIABLE)), ranges])
        await send({"type": "http.response.body", "body": _UNSATISFIABLE, "more_body": False})
        return
    pieces = book.read(record, part.start, part.end - part.start)
    first = await _first(pieces, record)
    length = part.end - part.start
    headers += [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % length)]
    if not part.whole:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (part.start, part.end - 1, record.bytes)))
    await _head(send, 200 if part.whole else 206, headers)
    await send({"type": "http.response.body", "body": first, "more_body": True})
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _first(pieces: AsyncIterator[bytes], record: FileRecord) -> bytes:
    try:
        return await anext(pieces, b"")
    except NotFound as exc:
        raise NotFound(f"the content of {record.id} is gone", param="id") from exc


async def _head(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
