"""Budget facts: spend that passed a threshold, on `events.gateway.budget_threshold`."""

from __future__ import annotations

import msgspec


class BudgetThreshold(msgspec.Struct, frozen=True, kw_only=True, tag="budget.threshold.v1"):
    """Settled spend of a window passed `percent` of its limit, for the first time. `limit_name` is the field of the
    limits, `scope` their key; tokens, or money in micro-units."""

    tenant: str
    scope: str
    limit_name: str
    span: str
    window: int
    percent: int
    limit: int
    spent: int
