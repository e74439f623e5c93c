"""Lines of an HTTP head, as they go on the wire: how limits stand travels so from where it is known to where it is sent."""

from __future__ import annotations

Headers = tuple[tuple[str, str], ...]


def headers_in(head: bytes) -> Headers:
    """Take lines apart, for what is not HTTP."""
    lines = head.decode().split("\r\n")[:-1]
    return tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
