"""Quota's settings (section QUOTA: `INFERBUS_QUOTA_WHEN_UNREACHABLE` and so on)."""

from __future__ import annotations

from typing import Literal

import msgspec

CLOSED, OPEN = "closed", "open"


class QuotaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens without counters, what is assumed of requests that name no bound, and whom to tell of budgets."""

    when_unreachable: Literal["closed", "open"] = "closed"
    """While counters cannot be reached: `closed` refuses (503) what this gateway's share does not cover; `open` goes on up
    to this gateway's equal part of each limit, and counts it afterwards."""
    default_completion_tokens: int = 4096
    """What a request that names no bound may generate at most, of each choice, where tokens or money are limited."""
    budget_percents: tuple[int, ...] = (80, 100)
    """At which parts of a day's tokens and a month's money an event is told."""
    webhook_url: str = ""
    """Where those events are posted, too."""
    webhook_secret: str = ""
    """Key of the HMAC-SHA256 of the body, in the header `X-Inferbus-Signature`."""
    hold_s: float = 60.0
    """For how long what a gateway has leased of days and months is its own without its saying so again; a ledger may give
    back what a dead one had after that."""
