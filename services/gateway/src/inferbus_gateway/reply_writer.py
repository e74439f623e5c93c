"""ReplyWriter: the parts of one answer on a producer's reply subject, and the check that the subject may be written to."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts import door
from inferbus.errors import Forbidden, InferbusError, InvalidRequest, RateLimited, openai_body, retry_after_of

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")  # no wildcards
_JSON = "application/json"
_PIECE_BYTES = 4 * 1024 * 1024
_EVENT, _DONE, _ID = b"data: ", b"[DONE]", b"id: "


_NO_MORE: Mapping[str, str] = {}

RateHeaders = tuple[tuple[str, str], ...]


class ReplyWriter:
    """Writes the parts of one answer to its reply subject, numbered, the last one marked; where it is kept, each says
    under which request id. Without a subject nobody wants to hear. `rate_headers` (as HTTP has them) go with the first."""

    def __init__(self, bus: Bus, subject: str) -> None:
        self._bus = bus
        self._subject = subject
        self._seq = 0
        self.kept_id = ""
        self.rate_headers: RateHeaders = ()

    async def whole(self, status: int, data: bytes, content_type: str) -> None:
        """Write an answer that is not streamed, as its last part; one too large for a message in several before it."""
        at = 0
        while len(data) - at > _PIECE_BYTES:
            await self.part(status, data[at : at + _PIECE_BYTES])
            at += _PIECE_BYTES
        await self.part(status, data[at:], end=True, content_type=content_type if data else "")

    async def part(
        self, status: int, data: bytes, *, end: bool = False, event_id: str = "", content_type: str = "",
        more: Mapping[str, str] = _NO_MORE,
    ) -> None:  # fmt: skip
        headers = {door.STATUS: str(status), door.SEQ: str(self._seq), **more}
        if not self._seq:
            headers |= _door_headers(self.rate_headers)
        if end:
            headers[door.END] = "1"
        if self.kept_id:
            headers[door.REQUEST_ID] = self.kept_id
        if content_type and content_type != _JSON:
            headers[door.CONTENT_TYPE] = content_type
        if event_id:
            headers[door.EVENT] = event_id
        self._seq += 1
        if self._subject:
            await self._bus.publish(self._subject, data, headers)

    @property
    def wanted(self) -> bool:
        return bool(self._subject)

    async def events(self, data: bytes) -> None:
        """Write server-sent events as plain JSON, one message each, with their ids where they have any."""
        for event in data.split(b"\n\n"):
            event_id = ""
            if event.startswith(_ID):
                line, _, event = event.partition(b"\n")  # noqa: PLW2901 - what is left of it
                event_id = line.removeprefix(_ID).decode()
            body = event.removeprefix(_EVENT)
            if body and body != _DONE:
                await self.part(200, body, event_id=event_id)

    async def error(self, error: InferbusError) -> None:
        retry_after = retry_after_of(error)
        more = {} if retry_after is None else {door.RETRY_AFTER: retry_after}
        if isinstance(error, RateLimited):
            more |= _door_headers(error.headers)
        await self.part(error.row.http_status, msgspec.json.encode(openai_body(error)), end=True, more=more)


def _door_headers(headers: RateHeaders) -> dict[str, str]:
    return {door.OF_HTTP[name]: value for name, value in headers}


def reply_subject(tenant: str, headers: Mapping[str, str]) -> str:
    """Read and check the address of the answer: the only subject a producer chooses.

    Raises:
        InvalidRequest: it is missing or no subject. Forbidden: it is another tenant's.
    """
    subject = headers.get(door.REPLY_TO, "")
    if not subject:
        raise InvalidRequest(f"header {door.REPLY_TO} is missing", param=door.REPLY_TO)
    if not subject.startswith(routes.reply_prefix(tenant)):
        raise Forbidden(f"{door.REPLY_TO} must lie under {routes.reply_prefix(tenant)}", param=door.REPLY_TO)
    if not _SUBJECT.fullmatch(subject):
        raise InvalidRequest(f"{door.REPLY_TO} is no subject", param=door.REPLY_TO)
    return subject
