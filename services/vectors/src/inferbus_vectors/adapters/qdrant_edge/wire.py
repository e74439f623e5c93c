"""What the service and the owner of a folder say to each other, over a socket pair: frames of msgpack behind their length."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from inferbus.contracts.vectors import Field
from inferbus_vectors.domain.points import Found, FoundPage, Query, ShardSpec, ShardStats, Where, Write

_LENGTH = struct.Struct("!I")
HEAD_BYTES = _LENGTH.size
_pack = msgspec.msgpack.Encoder().encode

ENSURE, DROP, SHARDS, INDEX_FIELDS = "ensure", "drop", "shards", "index_fields"
WRITE, ERASE, SWEEP, OPTIMISE = "write", "erase", "sweep", "optimise"
SEARCH, READ, COUNT, STATS = "search", "read", "count", "stats"
CHANGES = frozenset({WRITE, ERASE, SWEEP, INDEX_FIELDS})
"""What changes a shard, and is done again to a new generation that was begun before."""
LONG_WORK = frozenset({ENSURE, DROP, ERASE, SWEEP, INDEX_FIELDS, OPTIMISE})
"""What may take as long as there is much: the owner says so before it begins."""
QUESTIONS = frozenset({SEARCH, READ, COUNT, STATS, SHARDS})
"""What changes nothing and goes before what does."""

OPENING, OWNED, WAITING, LONG = "opening", "owned", "waiting", "long"
"""What the owner says of itself: the folder is its own and is being opened; it is open; another process has it still; what
comes next may take long."""


class Reading(msgspec.Struct, frozen=True, array_like=True):
    where: Where
    after: str
    limit: int
    with_vector: bool


class Call(msgspec.Struct, frozen=True, array_like=True):
    """To the owner. `body` is of the type that `TYPES` has for `op`."""

    id: int
    op: str
    shard: str
    body: msgspec.Raw


class Result(msgspec.Struct, frozen=True, array_like=True):
    """From the owner. `code` is not empty where it failed: one of the error table. Id 0: the state of the folder."""

    id: int
    body: msgspec.Raw
    code: str = ""
    message: str = ""


TYPES: dict[str, tuple[Any, Any]] = {
    ENSURE: (ShardSpec, None),
    DROP: (bool, bool),
    SHARDS: (None, list[str]),
    INDEX_FIELDS: (list[Field], None),
    WRITE: (list[Write], list[str]),
    ERASE: (Where, int),
    SWEEP: (float, int),
    OPTIMISE: (None, bool),
    SEARCH: (Query, list[Found]),
    READ: (Reading, FoundPage),
    COUNT: (Where, int),
    STATS: (None, ShardStats),
}
"""What goes to the owner and what comes back, of each operation."""


def frame(message: Call | Result) -> bytes:
    data = _pack(message)
    return _LENGTH.pack(len(data)) + data


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_pack(value))


def length_of(head: bytes) -> int:
    return int(_LENGTH.unpack(head)[0])


class Frames:
    """Takes bytes as they come apart into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        found = []
        at = 0
        while len(self._buffer) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + _LENGTH.unpack_from(self._buffer, at)[0]
            if end > len(self._buffer):
                break
            found.append(bytes(self._buffer[at + HEAD_BYTES : end]))
            at = end
        del self._buffer[:at]
        return found
