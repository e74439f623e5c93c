"""RowsBill: what one attempt at a group has to say of its rows: their outcome, and their events of usage.

The events are made of what is stored, whoever stored it, so that whoever writes them writes the same. They are sent before
anybody hears of the end, and are known to be stored before the message is ended (docs/adr/0013-ledger.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from inferbus.answers.attempts import Attempt
from inferbus.bus import Bus
from inferbus.contracts.control import EXPIRE
from inferbus.contracts.durable import Outcome
from inferbus.contracts.groups import ROWS_TYPE, RowAnswer, answers_from
from inferbus.contracts.usage import CANCELLED, DEADLINE
from inferbus.durable.outcomes import load_outcome
from inferbus.ledger.usage_log import Record
from inferbus.routes import InferSubject
from inferbus.worker.billing import Billing
from inferbus.worker.group_run import GroupRun


class RowsBill:
    """Implements `durable.attempt.Group`. Without `billing` nothing is written."""

    def __init__(
        self, billing: Billing | None, bus: Bus, attempt: Attempt, subject: InferSubject, run: GroupRun
    ) -> None:
        self._billing = billing
        self._bus = bus
        self._attempt = attempt
        self._subject = subject
        self._run = run
        self._record: Record | None = None

    def outcome(self) -> Outcome:
        return self._run.outcome()

    async def begin_bill(self, *, is_first: bool) -> None:
        """Send the events of what is stored.

        Raises:
            InferbusError: what another attempt stored cannot be read; the message comes back.
        """
        if self._billing is None or self._record is not None:
            return
        attempt = self._attempt
        aborted = DEADLINE if attempt.over.done() and attempt.over.result() == EXPIRE else CANCELLED
        answers = self._run.answers if is_first else await self._stored()
        self._record = self._billing.begin_rows(
            attempt.envelope, attempt.delivery, self._subject, answers, aborted=aborted
        )  # fmt: skip

    async def settle(self) -> None:
        if self._billing is not None and self._record is not None:
            await self._billing.log.settle(self._record, amend=False)

    async def _stored(self) -> Sequence[RowAnswer]:
        """Give what another stored of the rows; where it did not speak of them (its asker ended the group), this attempt's."""
        kept = await load_outcome(self._bus, self._subject.tenant, self._attempt.envelope.request_id)
        return answers_from(kept.body) if kept is not None and kept.content_type == ROWS_TYPE else self._run.answers
