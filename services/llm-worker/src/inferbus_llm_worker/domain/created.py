"""The time an answer carries: a request continued elsewhere keeps the one it began with."""

from __future__ import annotations

_KEY = b'"created":'
_HEAD_BYTES = 512


def restamp(data: bytes, created: int) -> bytes:
    """Set the `created` of a JSON body or of an SSE event that holds one; without one, `data` as it is.

    Only the head is looked at, where the OpenAI objects have it. Inside a JSON string the quotes are escaped, so a
    text that speaks of `"created":` is safe.
    """
    start = data.find(_KEY, 0, _HEAD_BYTES)
    if start < 0:
        return data
    start += len(_KEY)
    end = start
    while data[end : end + 1].isdigit():
        end += 1
    return b"%s%d%s" % (data[:start], created, data[end:]) if end > start else data
