"""Settlement: what happens to a message whose handling raised. The intake's edge; `verdict_of` decides, this acts."""

from __future__ import annotations

import structlog

from inferbus.errors import InferbusError, Transient, Verdict, verdict_of
from inferbus.queue.delivery import Delivery

log = structlog.get_logger()


async def settle(delivery: Delivery, error: BaseException, *, max_attempts: int, max_retries: int) -> None:
    """Ack, hand back with a delay, or copy to the dead letters and end.

    `max_attempts` bounds the deliveries of a message that meets a bug, `max_retries` of one that meets transients.
    """
    code = error.code if isinstance(error, InferbusError) else "internal"
    reason = error.message if isinstance(error, InferbusError) else f"{type(error).__name__}: {error}"
    verdict, limit, delay_s = verdict_of(error), max_attempts, 0.2 * 2**delivery.attempt
    if verdict is Verdict.TERMINATE:
        await delivery.bury(code, reason)
        return
    if verdict is Verdict.ACKNOWLEDGE:
        delivery.ack()
        return
    if isinstance(error, Transient):
        limit, delay_s = max_retries, error.retry_after_s
    else:
        log.error("handler_bug", subject=delivery.subject, seq=delivery.seq, attempt=delivery.attempt, exc_info=error)
    if delivery.attempt >= limit:
        await delivery.bury(code, reason)
    else:
        delivery.nak(delay_s)
