"""AdmitRows: several rows of a batch become one message. Each is checked and reserved for as a request is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from inferbus.admission.admit import Admission, Ask, Checked
from inferbus.admission.identity import Identity
from inferbus.admission.quota.reservation import Reservation
from inferbus.answers.exchange import Exchange
from inferbus.contracts.groups import ABORTED, ANSWERED, GroupRow, RowAnswer, rows_to
from inferbus.errors import InferbusError, Transient


class RowGroup:
    """Rows that are one request to the bus. `settle` it when its outcome is known."""

    def __init__(self, reservations: Mapping[str, Reservation]) -> None:
        self._reservations = dict(reservations)
        self.request_ids = frozenset(reservations)

    def settle(self, answers: Sequence[RowAnswer]) -> None:
        """Settle what was reserved for each row by what became of it, and refund the rest."""
        for answer in answers:
            if (
                answer.how in (ANSWERED, ABORTED)
                and (one := self._reservations.pop(answer.request_id, None)) is not None
            ):
                one.settle(answer.usage)
        self.close(None)

    def close(self, exchange: Exchange | None) -> None:
        """Settle by how the group's request ended; at its regular end its rows say more."""
        if exchange is not None and exchange.end is not None:
            return
        reservations, self._reservations = self._reservations, {}
        for reservation in reservations.values():
            reservation.close(exchange)


async def admit_rows(
    admission: Admission, identity: Identity, group_id: str, asks: Sequence[Ask]
) -> tuple[Exchange, RowGroup] | None:
    """Admit rows of one model and path as one durable request under `group_id`. What is not in the group was refused, and is
    for whoever asks it by itself; None: all of them.

    Raises:
        InferbusError: as `Admission.admit`, of the message; nothing was accepted.
    """
    checked = await _checked(admission, identity, asks)
    if not checked:
        return None
    first = checked[0]
    rows = [GroupRow(one.ask.request_id or "", one.ask.body, one.ask.bound) for one in checked]
    group = RowGroup({row.request_id: one.reservation for row, one in zip(rows, checked, strict=True)})
    ask = msgspec.structs.replace(first.ask, request_id=group_id, body=rows_to(rows), bound=0, rows=len(rows))
    return await admission.accept(identity, ask, first.entry, group.close), group


async def _checked(admission: Admission, identity: Identity, asks: Sequence[Ask]) -> list[Checked]:
    """Check rows until one meets what would refuse the others too."""
    checked: list[Checked] = []
    try:
        for ask in asks:
            try:
                one = await admission.check(identity, ask)
            except Transient:
                break
            except InferbusError:
                continue
            checked.append(one)
            if one.entry is not checked[0].entry:  # the model was changed meanwhile
                checked.pop().reservation.refund()
                break
    except BaseException:
        for one in checked:
            one.reservation.refund()
        raise
    return checked
