"""The order rows are asked in: those that begin alike one after the other, so that an engine finds its prefix. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from inferbus.batch.lines import Row

_PREFIX_BYTES = 2048


class _Prompt(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Prompt).decode


def by_prefix(rows: Iterable[Row]) -> list[Row]:
    """Sort by model and by how the prompt begins; rows that begin alike stay in the order of their lines."""
    return sorted(rows, key=lambda row: (row.model, prefix_of(row.body), row.line))


def prefix_of(body: bytes) -> bytes:
    """Give the beginning of what an engine reads."""
    try:
        prompt = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    return (bytes(prompt.messages) or bytes(prompt.prompt))[:_PREFIX_BYTES]
