"""Limits go with what they are of: one of the same name that comes later must not inherit them."""

from __future__ import annotations

from inferbus import routes
from inferbus.admission.audit import AuditedStore, Change
from inferbus.contracts.limits import LimitSet, limit_key


async def clear_limits(store: AuditedStore, tenant: str, scope: str, *parts: str) -> None:
    """Limit it no more, with an event; nothing happens where it was not limited."""
    key = limit_key(scope, *parts)
    change = Change(bucket=routes.KV_LIMITS, key=key, action="limits_cleared", tenant=tenant)
    await store.change(change, LimitSet, lambda _: None)
