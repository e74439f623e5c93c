"""Facts: tell what happened, once and durably, without making anybody wait for it."""

from __future__ import annotations

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.budgets import BudgetThreshold
from inferbus.contracts.facts import RequestCancelled
from inferbus.errands import Errands

_HOLD_S = 30.0


class Facts:
    """Stores facts of one service in the stream EVENTS. The bus may be away for half a minute meanwhile."""

    def __init__(self, bus: Bus, service: str, errands: Errands) -> None:
        self._bus = bus
        self._service = service
        self._errands = errands

    def budget_passed(self, event: BudgetThreshold) -> None:
        """Tell that spend passed a threshold."""
        subject = routes.event(self._service, routes.FACT_BUDGET_THRESHOLD)
        msg_id = f"{routes.FACT_BUDGET_THRESHOLD}:{event.scope}:{event.limit_name}:{event.window}:{event.percent}"

        async def store() -> None:
            await self._bus.accept(subject, msgspec.json.encode(event), {}, msg_id=msg_id, hold_s=_HOLD_S)

        self._errands.add(routes.FACT_BUDGET_THRESHOLD, store)

    def cancelled(self, event: RequestCancelled, *, asker: str, tag: int) -> None:
        """Tell that a request was cancelled. Whoever else tells it of the same `tag` of `asker` tells nobody: the first
        one is stored, the message id keeps the others out."""
        subject = routes.event(self._service, routes.FACT_REQUEST_CANCELLED)
        data, msg_id = msgspec.json.encode(event), f"{routes.FACT_REQUEST_CANCELLED}:{asker}:{tag}"

        async def store() -> None:
            await self._bus.accept(subject, data, {}, msg_id=msg_id, hold_s=_HOLD_S)

        self._errands.add(routes.FACT_REQUEST_CANCELLED, store)
