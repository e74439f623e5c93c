"""Budgets: settled spend of days and months, and the one moment in which it passes a threshold.

Spend is a counter of its own, so the addition that passes a threshold is one addition of one gateway: whoever made it
tells the event, and nobody else does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from inferbus import routes
from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.meter import Meter
from inferbus.contracts.budgets import BudgetThreshold
from inferbus.errors import InferbusError

_AT_ONCE = 256  # one after the other each would wake the server, and this process, for itself
log = structlog.get_logger()


BudgetListener = Callable[[BudgetThreshold], None]


def passed_percents(before: int, after: int, limit: int, percents: Iterable[int]) -> list[int]:
    """Give the thresholds between two values of a counter, the later one included. Pure."""
    return [percent for percent in sorted(percents) if before * 100 < percent * limit <= after * 100]


class Budgets:
    """Counts what was settled."""

    def __init__(self, counters: Counters, percents: tuple[int, ...], listeners: Sequence[BudgetListener]) -> None:
        self._counters = counters
        self._percents = percents
        self._listeners = listeners

    async def count(self, leases: Iterable[tuple[Lease, Meter]]) -> None:
        """Add what each lease has settled since the last time."""
        spending = [(lease, meter) for lease, meter in leases if lease.spent]
        for first in range(0, len(spending), _AT_ONCE):
            some = spending[first : first + _AT_ONCE]
            await asyncio.gather(*(self._count(lease, meter) for lease, meter in some))

    async def _count(self, lease: Lease, meter: Meter) -> None:
        spent, lease.spent = lease.spent, 0
        try:
            value = await self._counters.add(routes.spent_of(lease.subject), spent)
        except InferbusError as exc:
            lease.spent += spent
            log.info("spend_not_counted", scope=meter.scope.key, error=exc.message)
            return
        for percent in passed_percents(value - spent, value, meter.limit, self._percents):
            self._tell(meter, percent, value)

    def _tell(self, meter: Meter, percent: int, spent: int) -> None:
        event = BudgetThreshold(
            tenant=meter.scope.tenant, scope=meter.scope.key, limit_name=meter.kind.field, span=meter.kind.span,
            window=meter.window, percent=percent, limit=meter.limit, spent=spent,
        )  # fmt: skip
        log.warning("budget_threshold", scope=event.scope, limit_name=event.limit_name, percent=percent)
        for listener in self._listeners:
            listener(event)
