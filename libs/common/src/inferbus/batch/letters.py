"""Dead letters of a batch, as clients read them over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.batch import DeadRow


class DeadLetter(msgspec.Struct, kw_only=True):
    """A line that could not be done: why, how often an engine was asked, what it answered last (`status` 0: nobody was
    asked), and the line as it was (empty where it is too long to be kept)."""

    line: int
    custom_id: str | None
    request_id: str
    code: str
    message: str
    attempts: int
    status: int
    body: Any
    original: str


class DeadLetterList(msgspec.Struct, kw_only=True):
    """Dead letters in the order of their lines; go on with `after` the last line."""

    object: str = "list"
    data: list[DeadLetter]
    has_more: bool = False


def describe_dead(row: DeadRow) -> DeadLetter:
    return DeadLetter(
        line=row.line, custom_id=row.custom_id, request_id=row.request_id, code=row.code, message=row.message,
        attempts=row.attempts, status=row.status, body=row.body, original=row.original,
    )  # fmt: skip
