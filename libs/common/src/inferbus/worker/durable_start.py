"""Before a durable request starts: whether it has ended already, and what to assume where nobody can be asked."""

from __future__ import annotations

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.envelope import Envelope
from inferbus.contracts.step import FRESH, Answer
from inferbus.durable.outcomes import failed_outcome, has_outcome, store_outcome
from inferbus.errors import DeadlineWhileQueued
from inferbus.queue.delivery import Delivery

_SOLO_FROM_ATTEMPT = 4


async def is_over(bus: Bus, envelope: Envelope, delivery: Delivery, left_s: float) -> bool:
    """Say whether nothing is left to do: an outcome is stored, or is now because the deadline has passed.

    Raises:
        DependencyDown: nobody can tell now.
    """
    tenant = routes.parse_infer(delivery.subject).tenant
    if await has_outcome(bus, tenant, envelope.request_id):
        return True
    if left_s > 0:
        return False
    error = DeadlineWhileQueued("no worker could start the request before its deadline")
    await store_outcome(bus, tenant, envelope.request_id, failed_outcome(error))
    return True


def answer_without_asker(attempt: int) -> Answer:
    """Give what the asker of a durable request would say if it were there.

    It alone counted the engines that died under the request; now only deliveries are known, of which some ended for
    other reasons. Half of them are taken for deaths, so that a request that kills engines is found all the same.
    """
    return Answer(FRESH, engine_deaths=(attempt - 1) // 2, solo=attempt >= _SOLO_FROM_ATTEMPT)
