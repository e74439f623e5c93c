"""Usage: one event per request on `usage.<tenant>.<pool>`, kept in the stream USAGE; and the totals made of them.

A message has one event, or those of a group's rows as an array.
"""

from __future__ import annotations

import msgspec

from inferbus.contracts.step import Usage

FINISHED, REJECTED, CANCELLED, DEADLINE, ABANDONED, AMENDED = (
    "finished",
    "rejected",
    "cancelled",
    "deadline",
    "abandoned",
    "amended",
)
"""Outcomes besides the codes of the error table. `rejected`: answered with a status of 400 or more. `abandoned`: whoever
waited for it (a gateway) died. `amended`: a correction of an event before; its figures are differences."""

CHARGED = frozenset({FINISHED, REJECTED, CANCELLED, DEADLINE, AMENDED})
"""Outcomes whose tokens are paid for: what the client got, or had us compute until it wanted no more. Where the platform
failed, tokens are noted and cost nothing."""


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, tag="usage.event.v1"):
    """What one request took. Times in seconds, `cost` in micro-units at the price `price_version`.

    `queue_s` and `engine_s` are of its last attempt: from storage to receipt, from receipt to the end. `at` is the Unix
    time of its end by the server's clock. `price_version` is empty where the model has no price. `wasted_tokens` were
    computed and are charged to nobody; the other counts are 0 then.
    """

    request_id: str
    tenant: str
    key_id: str
    team: str
    user: str
    model: str
    pool: str
    version: str
    task: str
    lane: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_s: float
    engine_s: float
    cost: int
    price_version: str
    outcome: str
    trace_id: str
    at: float
    wasted_tokens: int = 0
    requests: int = 1

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens)

    @property
    def figures(self) -> Figures:
        return Figures(**{name: getattr(self, name) for name in FIGURES})


_decode_one = msgspec.json.Decoder(UsageEvent).decode
_decode_many = msgspec.json.Decoder(list[UsageEvent]).decode


def events_in(data: bytes) -> list[UsageEvent]:
    """Read a message of the ledger's stream: an event, or an array of those of a group's rows.

    Raises:
        msgspec.DecodeError: it is neither.
    """
    return _decode_many(data) if data.startswith(b"[") else [_decode_one(data)]


FIGURES = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "wasted_tokens", "cost")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is added up. Differences of two may be negative."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    wasted_tokens: int = 0
    cost: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(**{name: getattr(self, name) + getattr(other, name) for name in FIGURES})

    def __sub__(self, other: Figures) -> Figures:
        return Figures(**{name: getattr(self, name) - getattr(other, name) for name in FIGURES})

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in FIGURES)


class Total(msgspec.Struct, frozen=True, kw_only=True, tag="usage.total.v1"):
    """One row of the totals, in the bucket `totals`. `day` is a UTC date (2026-11-22).

    `upto` is the stream's sequence of the last event in it: whatever has a lower one is in it, or is another row's.
    """

    tenant: str
    team: str
    key_id: str
    model: str
    day: str
    figures: Figures = Figures()
    upto: int = 0


class LedgerPlace(msgspec.Struct, frozen=True, kw_only=True, tag="usage.place.v1"):
    """How far the totals have come, in the bucket `ledger`: every event up to the sequence `upto` is in its row.

    `by` is the process (its incarnation) that said so last, `stream` when that stream was made.
    """

    upto: int = 0
    by: str = ""
    stream: str = ""
