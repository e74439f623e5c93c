"""Encoding: msgpack for step frames and control, JSON for everything a person may read. Nothing else encodes."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from inferbus.errors import InvalidRequest

T = TypeVar("T")

pack = msgspec.msgpack.Encoder().encode
to_json = msgspec.json.Encoder().encode


def from_json(data: bytes, type_: type[T], *, what: str) -> T:
    """Decode JSON bytes into `type_`.

    Raises:
        InvalidRequest: the bytes are not JSON or do not fit; the message says where.
    """
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:  # msgspec does not wrap the last two
        raise InvalidRequest(f"{what}: {exc}", param=field_of(exc)) from exc


def field_of(exc: Exception) -> str | None:
    """Name the offending field of a msgspec error (``Expected `int` - at `$.max_tokens` ``), if it has one."""
    text = str(exc)
    start = text.rfind("`$.")
    if start >= 0:
        return text[start + 3 : text.find("`", start + 1)]
    marker = "missing required field `"
    start = text.find(marker)
    if start >= 0:
        return text[start + len(marker) : text.find("`", start + len(marker))]
    return None


def unpacker(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    """Make a msgpack decoder for one message type; keep it, building one is the dear part."""
    return msgspec.msgpack.Decoder(type_)
