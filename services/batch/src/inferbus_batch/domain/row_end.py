"""What becomes of a row: an answer for the output, a dead letter, or another try. Pure."""

from __future__ import annotations

import random

import msgspec

from inferbus.batch.lines import json_of
from inferbus.contracts.batch import DeadRow, LineFault, Spent
from inferbus.contracts.durable import Outcome
from inferbus.errors import ERROR_TABLE, RateLimited

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_OF_THE_MOMENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_ORIGINAL = 1024 * 1024


class RowEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How asking a row ended. `attempts` counts requests, `wasted` the tokens of those that do not count; `taken`: an
    earlier worker of the chunk had asked."""

    request_id: str
    outcome: Outcome
    attempts: int = 1
    wasted: int = 0
    taken: bool = False


def is_of_the_moment(outcome: Outcome) -> bool:
    """Whether a row that ended so may end otherwise when it is asked again."""
    if outcome.failure is not None:
        row = ERROR_TABLE.get(outcome.failure.code)
        # A limit that is an outcome is one no waiting helps with.
        return row is not None and row.retryable and row.code != RateLimited.code
    return outcome.status in _OF_THE_MOMENT


def backoff_s(attempt: int) -> float:
    """Give the seconds before another attempt: doubled each time, with a random part so that rows do not come together."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def tokens_of(outcome: Outcome) -> int:
    return outcome.usage.prompt_tokens + outcome.usage.completion_tokens


def spent_by(ends: list[RowEnd]) -> Spent:
    """Add up what rows took."""
    usages = [end.outcome.usage for end in ends]
    return Spent(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        wasted_tokens=sum(end.wasted for end in ends),
    )


def dead_row(line: int, custom_id: str | None, end: RowEnd, original: bytes) -> DeadRow:
    """Make the dead letter of a row that was not answered 200."""
    outcome, failure = end.outcome, end.outcome.failure
    return DeadRow(
        line=line, custom_id=custom_id, request_id=end.request_id,
        code=failure.code if failure is not None else f"http_{outcome.status}",
        message=failure.message if failure is not None else f"the engine answered {outcome.status}",
        attempts=end.attempts, status=outcome.status, body=json_of(outcome.body), original=_kept(original),
    )  # fmt: skip


def dead_fault(fault: LineFault, custom_id: str | None, request_id: str, original: bytes) -> DeadRow:
    """Make the dead letter of a row with a fault of its own."""
    return DeadRow(
        line=fault.line, custom_id=custom_id, request_id=request_id, code=fault.code, message=fault.message,
        original=_kept(original),
    )  # fmt: skip


def _kept(original: bytes) -> str:
    return original.decode(errors="replace") if len(original) <= _MAX_ORIGINAL else ""
