"""Groups: several rows of a batch as one message of the queue, and what they came to as its one outcome.

The body of such a message is a msgpack array of `GroupRow`, and its header Ib-Rows says how many. The body of its outcome
is an array of `RowAnswer`, with `ROWS_TYPE` for its content type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from inferbus.codec import pack, unpacker
from inferbus.contracts.step import Usage
from inferbus.errors import InvalidRequest

T = TypeVar("T")
ROWS_TYPE = "application/vnd.inferbus.rows+msgpack"
ROWS_HEADER = "Ib-Rows"

ANSWERED, ABORTED, GIVEN_BACK, NOT_BEGUN, FENCED = "answered", "aborted", "given_back", "not_begun", "fenced"
"""How a row ended. `aborted`: the group's request was cancelled, or its deadline passed. `given_back`: it was begun, and
has to be asked by itself. `not_begun`: nothing was done for it. `fenced`: nor was there, and a later delivery of its chunk asks it."""


class GroupRow(msgspec.Struct, frozen=True, array_like=True):
    """One row: the request it is, and its body. `bound`: see the envelope."""

    request_id: str
    body: bytes
    bound: int = 0


class RowAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What became of a row. Status, body and content type are an answer's; `usage` is also what an aborted row had taken.
    `waited_s` is from the receipt of its group to its begin, `engine_s` from there to its end."""

    request_id: str
    how: str
    status: int = 0
    usage: Usage = Usage()
    body: bytes = b""
    content_type: str = ""
    waited_s: float = 0.0
    engine_s: float = 0.0


_decode_rows: Callable[[bytes], list[GroupRow]] = unpacker(list[GroupRow]).decode
_decode_answers: Callable[[bytes], list[RowAnswer]] = unpacker(list[RowAnswer]).decode


def rows_to(rows: list[GroupRow]) -> bytes:
    return pack(rows)


def rows_from(data: bytes) -> list[GroupRow]:
    """Read the rows of a group's message.

    Raises:
        InvalidRequest: they cannot be read.
    """
    return _read(_decode_rows, data)


def answers_to(answers: list[RowAnswer]) -> bytes:
    return pack(answers)


def answers_from(data: bytes) -> list[RowAnswer]:
    """Read what the rows of a group came to.

    Raises:
        InvalidRequest: it cannot be read.
    """
    return _read(_decode_answers, data)


def _read(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"unreadable rows of a group: {exc}") from exc
