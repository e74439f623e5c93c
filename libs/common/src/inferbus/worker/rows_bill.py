"""RowsBill: the events of a group's rows, once its outcome is stored and before its message is ended."""

from __future__ import annotations

from collections.abc import Sequence

from inferbus.bus import Bus
from inferbus.contracts.control import EXPIRE
from inferbus.contracts.groups import ROWS_TYPE, RowAnswer, answers_from
from inferbus.contracts.usage import CANCELLED, DEADLINE
from inferbus.durable.attempt import DurableAttempt
from inferbus.durable.outcomes import load_outcome
from inferbus.routes import InferSubject
from inferbus.worker.billing import Billing


class RowsBill:
    """What one attempt at a group has to say of its rows. `answers` grows while they run."""

    def __init__(
        self, billing: Billing, bus: Bus, attempt: DurableAttempt, subject: InferSubject, answers: Sequence[RowAnswer]
    ) -> None:
        self._billing = billing
        self._bus = bus
        self._attempt = attempt
        self._subject = subject
        self._answers = answers

    async def settle(self) -> None:
        """Write what is stored of the group, whoever stored it: then whoever writes it says the same.

        Raises:
            InferbusError: what another attempt stored cannot be read; the message comes back.
        """
        attempt, answers = self._attempt, self._answers
        if not attempt.is_first:
            kept = await load_outcome(self._bus, self._subject.tenant, attempt.envelope.request_id)
            if kept is not None and kept.content_type == ROWS_TYPE:
                answers = answers_from(kept.body)
        aborted = DEADLINE if attempt.over.done() and attempt.over.result() == EXPIRE else CANCELLED
        await self._billing.settle_rows(
            attempt.envelope, attempt.delivery, self._subject, answers, aborted=aborted
        )  # fmt: skip
