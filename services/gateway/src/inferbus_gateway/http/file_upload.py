"""An upload: multipart/form-data taken apart as it comes, the file's bytes passed on, nothing of them kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from litestar.types import Receive
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from inferbus.errors import InvalidRequest
from inferbus_gateway.http.request_body import ClientGone

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 64 * 1024
FILE = "file"


class Upload:
    """One request body. Take the file's pieces first, then `finish`: other fields may stand before and after it."""

    def __init__(self, receive: Receive, content_type: str, *, idle_s: float) -> None:
        """Raises InvalidRequest where it is no multipart/form-data."""
        self._receive = receive
        self._idle_s = idle_s
        self._events = self._parse(_boundary_of(content_type))
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.complete = False
        """Whether the request has been read to its end."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the bytes of the file.

        Raises:
            InvalidRequest: it is not well formed, has no file, or did not come for too long. ClientGone: the client left.
        """
        async for segment in self._events:
            if isinstance(segment, MultipartSegment) and segment.name == FILE:
                self.filename = segment.filename or ""
                break
            await self._field(segment)
        else:
            raise InvalidRequest("there is no file in it", param=FILE)
        async for piece in self._events:
            if not isinstance(piece, bytes | bytearray):
                return
            yield bytes(piece)

    async def finish(self) -> None:
        """Read the fields behind the file, to the end of the request. Raises as `pieces`; a second file is refused."""
        async for segment in self._events:
            await self._field(segment)

    async def _field(self, segment: MultipartSegment | bytes | bytearray | None) -> None:
        """Read one field, whose beginning has come."""
        if not isinstance(segment, MultipartSegment):
            raise InvalidRequest("the parts of the form are out of order")
        if segment.name == FILE:
            raise InvalidRequest("there is more than one file in it", param=FILE)
        data = b""
        async for piece in self._events:
            if piece is None or isinstance(piece, MultipartSegment):
                break
            data += piece
            if len(data) > _MAX_FIELD_BYTES:
                raise InvalidRequest(f"the field is over {_MAX_FIELD_BYTES} bytes", param=segment.name[:80])
        try:
            self.fields[segment.name[:80]] = data.decode()
        except UnicodeDecodeError as exc:
            raise InvalidRequest("the field is not UTF-8", param=segment.name[:80]) from exc

    async def _parse(self, boundary: str) -> AsyncIterator[MultipartSegment | bytes | bytearray | None]:
        try:
            parser = PushMultipartParser(boundary, max_segment_count=_MAX_FIELDS)
            async for data in self._received():
                if data:
                    for event in parser.parse(data):
                        yield event
            parser.close()
        except ParserLimitReached as exc:
            raise InvalidRequest(f"the form is not acceptable: {exc}") from exc
        except MultipartError as exc:
            raise InvalidRequest(f"the form is not well formed: {exc}") from exc

    async def _received(self) -> AsyncIterator[bytes]:
        while not self.complete:
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await self._receive()
            except TimeoutError as exc:
                raise InvalidRequest(f"nothing of the upload came for {self._idle_s:g} seconds") from exc
            if message["type"] != "http.request":
                raise ClientGone
            self.complete = not message["more_body"]
            yield message["body"]


def _boundary_of(content_type: str) -> str:
    kind, options = parse_options_header(content_type)
    if kind.lower() != "multipart/form-data" or not options.get("boundary"):
        raise InvalidRequest("the body must be multipart/form-data with a boundary", param="Content-Type")
    return str(options["boundary"])
