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
    """Name the offending field of a msgspec error, if it has one.

    Its texts are ``Expected `int` - at `$.max_tokens` `` and ``Object missing required field `size` - at `$.inner` ``.
    """
    text = str(exc)
    quoted = (_quoted(text, mark) for mark in ("at `$.", "missing required field `", "contains unknown field `"))
    path = [part for part in quoted if part]
    return ".".join(path) or None


def _quoted(text: str, marker: str) -> str:
    """Give what stands between `marker` and the next backtick."""
    start = text.rfind(marker)
    return text[start + len(marker) :].partition("`")[0] if start >= 0 else ""


def unpacker(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    """Make a msgpack decoder for one message type; keep it, building one is the dear part."""
    return msgspec.msgpack.Decoder(type_)
