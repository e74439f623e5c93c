"""Replies: the parts of one answer on a producer's reply subject, in order, and the error they may be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from inferbus.contracts import door
from inferbus.errors import (
    ERROR_TABLE,
    DeadlineWhileQueued,
    EngineDead,
    InferbusError,
    RateLimited,
    Transient,
    error_from,
)

_SILENT_S = 10.0


class Reply(msgspec.Struct, frozen=True):
    """One message of an answer: the HTTP status it would have had, the JSON, whether it is the last, and of a
    kept answer the event id, and the request's (another's, where an idempotency key was known). `headers` are all of the message's."""

    status: int
    data: bytes
    end: bool
    event_id: str = ""
    request_id: str = ""
    content_type: str = ""
    headers: Mapping[str, str] = {}


class _ErrorDetail(msgspec.Struct):
    message: str = ""
    code: str | int | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    """OpenAI's form, or KServe's, which is a text alone."""

    error: _ErrorDetail | str = msgspec.field(default_factory=_ErrorDetail)


async def joined(replies: AsyncGenerator[Reply, None]) -> Reply:
    """Read an answer that is not streamed; one too large for a message comes in several.

    Raises:
        InferbusError: it ended in one, or before its end.
    """
    parts: list[bytes] = []
    async with aclosing(replies):
        async for reply in replies:
            parts.append(reply.data)
            if reply.end:
                return msgspec.structs.replace(reply, data=b"".join(parts))
    raise InferbusError("the answer ended without a body")


async def part(queue: asyncio.Queue[tuple[int, Reply]], expected: int, give_up: float) -> Reply:
    """Wait for the part number `expected` of an answer until `give_up` (monotonic seconds).

    Raises:
        DeadlineWhileQueued: it did not come. EngineDead: another gateway began the answer anew, and its text need not
            go on from ours. InferbusError: a part was lost.
    """
    try:
        async with asyncio.timeout(give_up - time.monotonic()):
            seq, reply = await queue.get()
    except TimeoutError:
        raise DeadlineWhileQueued("no answer came before the deadline") from None
    if seq < expected:
        raise EngineDead("the gateway was lost in mid-stream; another one began the answer anew")
    if seq > expected:
        raise InferbusError("a part of the answer was lost on the way")
    return reply


async def part_or_none(queue: asyncio.Queue[tuple[int, Reply]], give_up: float) -> tuple[int, Reply] | None:
    """Wait for a part; None where its sender is silent for so long that it is gone.

    Raises:
        DeadlineWhileQueued: `give_up` (monotonic seconds) has come.
    """
    left_s = give_up - time.monotonic()
    if left_s <= 0:
        raise DeadlineWhileQueued("the answer did not end before the deadline")
    try:
        async with asyncio.timeout(min(left_s, _SILENT_S)):
            return await queue.get()
    except TimeoutError:
        return None


def error_of(reply: Reply) -> InferbusError:
    try:
        detail = msgspec.json.decode(reply.data, type=_ErrorBody).error
        if isinstance(detail, str):
            detail = _ErrorDetail(detail)
    except msgspec.DecodeError:
        return InferbusError(reply.data.decode(errors="replace")[:500])
    error = error_from(_code_of(detail.code, reply.status), detail.message)
    error.param = detail.param
    if isinstance(error, Transient):
        error.retry_after_s = float(reply.headers.get(door.RETRY_AFTER, error.retry_after_s))
    if isinstance(error, RateLimited):
        found = ((name, reply.headers.get(ours)) for name, ours in door.OF_HTTP.items())
        error.headers = tuple((name, value) for name, value in found if value is not None)
    return error


_BY_STATUS = {
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    422: "unsupported",
    429: "tenant_overloaded",
    499: "cancelled",
    503: "overloaded",
    504: "deadline_running",
}


def _code_of(code: str | int | None, status: int) -> str:
    """Give our code of an error body: its own, or where an engine wrote the body, what its status means."""
    if isinstance(code, str) and code in ERROR_TABLE:
        return code
    return _BY_STATUS.get(status, "internal" if status >= 500 else "invalid_request")
