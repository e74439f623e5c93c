"""Failing: what an error of the engine means for a request and its message."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from inferbus.answers.attempts import Attempt
from inferbus.contracts.step import Answer
from inferbus.errors import EngineDead, InferbusError, Permanent, Poison, ResumeImpossible, Transient
from inferbus.queue.delivery import Delivery
from inferbus.worker.billing import Bill
from inferbus.worker.poison import is_poison

_REQUEUE_S = 0.2
_ASKER_GONE_S = 1.0
log = structlog.get_logger()


async def settle(bill: Bill | None, error: BaseException | None = None) -> None:
    """Have the request in the ledger before its message is ended."""
    if bill is not None:
        await bill.settle(error)


def let_go(attempt: Attempt) -> Awaitable[None]:
    """End the message of an attempt that is over; one whose asker is gone rests for a second."""
    return attempt.let_go(_ASKER_GONE_S)


async def end_failed(
    error: BaseException, attempt: Attempt, delivery: Delivery, answer: Answer, bill: Bill | None
) -> None:
    """End an attempt that its engine failed, and its message."""
    if attempt.over.done():  # cancelled, stale or asker gone: we stopped it ourselves
        await settle(bill, error)
        await let_go(attempt)
        return
    if isinstance(error, EngineDead):
        await _end_dead(error, attempt, delivery, answer, bill)
        return
    if isinstance(error, ResumeImpossible):  # nor could another worker: the client has to ask again
        attempt.failed(error.code, error.message, final=True)
        await settle(bill, error)
        await let_go(attempt)
        return
    if not isinstance(error, InferbusError):
        log.error("engine_error", request_id=attempt.envelope.request_id, error=repr(error))
        attempt.failed("internal", "the engine failed on this request", final=True)
        await settle(bill, error)
        await delivery.bury("internal", repr(error))
        await attempt.over  # a final frame is repeated until it is confirmed, or nobody waits for it
        return
    if isinstance(error, Transient):
        attempt.failed(error.code, error.message, final=False)
        delivery.nak(error.retry_after_s)
        return
    if isinstance(error, Permanent):  # its body cannot be had (an engine answers what it refuses)
        attempt.failed(error.code, error.message, final=True)
        await settle(bill, error)
        await delivery.bury(error.code, error.message)
        await attempt.over
        return
    await settle(bill, error)
    await attempt.expire()  # our own deadline


async def _end_dead(error: EngineDead, attempt: Attempt, delivery: Delivery, answer: Answer, bill: Bill | None) -> None:
    if is_poison(answer.engine_deaths + 1, was_alone=answer.solo):
        reason = f"killed the engine {answer.engine_deaths + 1} times, the last time alone: {error.message}"
        attempt.failed(Poison.code, "this request " + reason, final=True)
        await settle(bill, Poison(reason))
        await delivery.bury("poison", reason)
        await attempt.over
        return
    attempt.failed(error.code, error.message, final=False)
    delivery.nak(_REQUEUE_S)
