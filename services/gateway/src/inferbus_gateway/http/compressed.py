"""Compressed request bodies: gzip and deflate (zlib), never more than the limit once unpacked."""

from __future__ import annotations

import asyncio
import zlib

from inferbus.errors import InvalidRequest, TooLarge

ENCODINGS = (b"gzip", b"deflate")
_EITHER = 32 + zlib.MAX_WBITS  # the header says which of the two it is
_AT_ONCE_BYTES = 64 * 1024


async def unpack(body: bytes, limit_bytes: int) -> bytes:
    """Unpack a body, a large one beside the event loop.

    Raises:
        TooLarge: it is over the limit; how large, nobody looks. InvalidRequest: it is damaged, or something follows it.
    """
    if len(body) <= _AT_ONCE_BYTES:
        return _unpack(body, limit_bytes)
    return await asyncio.to_thread(_unpack, body, limit_bytes)


def _unpack(body: bytes, limit_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(_EITHER)
    try:
        data = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as exc:
        raise InvalidRequest(f"the body cannot be unpacked: {exc}", param="Content-Encoding") from exc
    if len(data) > limit_bytes:
        raise TooLarge(f"the unpacked body is over {limit_bytes} bytes, the limit")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequest("the packed body is not complete, or more follows it", param="Content-Encoding")
    return data
