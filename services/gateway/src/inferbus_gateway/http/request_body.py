"""Reading a request body: bounded in size and in time, stopped as early as possible, then decoded as far as needed."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from litestar.types import Receive

from inferbus.codec import field_of
from inferbus.errors import InvalidRequest, TooLarge
from inferbus_gateway.joined_head import take_body

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class BodyRefused(Exception):
    """The body will not be read to its end: TooLarge, or InvalidRequest where it came too slowly."""

    def __init__(self, error: TooLarge | InvalidRequest) -> None:
        super().__init__(error.message)
        self.error = error


async def read_body(receive: Receive, *, content_length: int | None, limit_bytes: int, timeout_s: float) -> bytes:
    """Read the whole body.

    Raises:
        BodyRefused: more than `limit_bytes` were announced or came, or it was not complete after `timeout_s`.
        ClientGone: the client left.
    """
    if content_length is not None and content_length > limit_bytes:
        raise BodyRefused(TooLarge(f"the body is {content_length} bytes, the limit is {limit_bytes} bytes"))
    body = take_body(receive)  # nearly always all of it is here
    if body is not None:
        if len(body) > limit_bytes:
            raise BodyRefused(TooLarge(f"{len(body)} bytes of the body came, the limit is {limit_bytes} bytes"))
        return body
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_parts(receive, limit_bytes)
    except TimeoutError as exc:
        raise BodyRefused(InvalidRequest(f"the body was not complete after {timeout_s:g} seconds")) from exc


async def _read_parts(receive: Receive, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if size > limit_bytes:
            raise BodyRefused(TooLarge(f"{size} bytes of the body came, the limit is {limit_bytes} bytes"))
        if not message["more_body"] and not parts:
            return message["body"]  # it came in one piece
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)
    raise ClientGone


def decode_view(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode what routing needs of a body; everything else in it is only skipped.

    Raises:
        InvalidRequest: not JSON, or a field of the wrong type; `param` names the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(str(exc), param=field_of(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidRequest("the body is not valid JSON: it is nested too deeply") from exc
