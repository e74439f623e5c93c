"""What pushes took, for the ledger: one event for each message, whoever writes it and however often."""

from __future__ import annotations

import hashlib
import time

from inferbus.admission.identity import Identity
from inferbus.contracts.prices import cost
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import FINISHED, REJECTED, UsageEvent
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.queue.delivery import Delivery
from inferbus.routes import FEATURES_POOL, INTERACTIVE, features_model

TASK = "features.push"
_MSG_ID = "Nats-Msg-Id"


class PushUsage:
    """Writes events. A row that was accepted counts as a token."""

    def __init__(self, log: UsageLog, prices: PriceBook) -> None:
        self._log = log
        self._prices = prices

    async def settle(self, delivery: Delivery, identity: Identity, source: str, id_: str, rows: int) -> None:
        """Write what a push took, and wait until it is stored. `id_`: the push's own, where it has one: of pushes of one id
        within the ledger's window one is charged. One of which no row was accepted may come again, and be charged then."""
        id_ = (id_ or delivery.headers.get(_MSG_ID, "")) if rows else ""
        name = name_of(identity.tenant, source, id_, delivery)
        record = self._log.begin(name, self._event(delivery, identity, source, name, rows))
        await self._log.settle(record, amend=False)

    def _event(self, delivery: Delivery, identity: Identity, source: str, name: str, rows: int) -> UsageEvent:
        model, at = features_model(source), round(time.time(), 3)
        price = self._prices.price_of(model)
        return UsageEvent(
            request_id=name, tenant=identity.tenant, key_id=identity.key_id, team=identity.team, user=identity.user,
            model=model, pool=FEATURES_POOL, version="", task=TASK, lane=INTERACTIVE, prompt_tokens=rows,
            completion_tokens=0, cached_tokens=0, queue_s=round(delivery.age_s, 6), engine_s=0.0,
            cost=cost(price, Usage(rows)) if price is not None else 0,
            price_version=price.version if price is not None else "", outcome=FINISHED if rows else REJECTED,
            trace_id="", at=at,
        )  # fmt: skip


def name_of(tenant: str, source: str, id_: str, delivery: Delivery) -> str:
    """Name a push's event: after its id, or its place in the stream, so that a message that is delivered again is known.

    An id may have any characters, and a name stands in a header: it is hashed.
    """
    if id_:
        return f"push:{hashlib.sha256(f'{tenant}:{source}:{id_}'.encode()).hexdigest()[:32]}"
    return f"push:{delivery.seq}:{int(delivery.stored_s * 1e6)}"
