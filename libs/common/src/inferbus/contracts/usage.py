"""Usage: one event per request on `usage.<tenant>.<pool>`, kept in the stream USAGE; and the totals made of them."""

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
