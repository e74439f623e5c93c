"""What a lease says is outstanding, through the ways a reservation may end."""

from __future__ import annotations

import asyncio
from typing import cast

from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.meter import COUNTED, Meter, Scope
from inferbus.admission.quota.reservation import OpenReservations, Reservation
from inferbus.admission.quota.tokens import Estimate
from inferbus.contracts.step import Usage

DAY_OF_DEV = Scope("org.dev", "organisation dev", "dev", "org")


class Added(list[int]):
    """Counters of which only what was added matters."""

    async def add(self, _subject: str, delta: int, *, msg_id: str = "") -> int:
        del msg_id
        self.append(delta)
        return sum(self)


def opened(added: Added, amount: int) -> tuple[Meter, Lease, Reservation, OpenReservations]:
    """A lease of 500 of a day, and a reservation of so much of it."""
    kind = next(kind for kind in COUNTED if kind.span == "day")
    meter = Meter(DAY_OF_DEV, kind, 1000, cast(Counters, added), lambda: 1, lambda _lease, _meter: None, 0.0)
    lease, book = meter.lease, OpenReservations()
    lease.share.granted(500, 500)
    reservation = Reservation(Estimate(amount, 0), None, book)
    book[reservation] = 0.0
    assert lease.try_take(amount)
    reservation.add(meter, lease, amount)
    return meter, lease, reservation, book


async def test_what_is_reserved_is_outstanding_until_it_is_settled() -> None:
    _, lease, reservation, book = opened(Added(), 200)
    assert (lease.out, lease.outstanding) == (200, 500)
    reservation.settle(Usage(50, 0))
    assert (lease.out, lease.outstanding, lease.spent, book) == (0, 450, 50, {})


async def test_a_refund_leaves_nothing_reserved() -> None:
    _, lease, reservation, book = opened(Added(), 200)
    reservation.refund()
    assert (lease.out, lease.outstanding, book) == (0, 500, {})


async def test_what_is_open_for_long_is_not_spoken_of_any_more() -> None:
    _, lease, reservation, _ = opened(Added(), 200)
    reservation.age()
    assert lease.outstanding == 300
    reservation.settle(Usage(50, 0))
    assert (lease.out, lease.outstanding) == (0, 450)


async def test_what_was_given_back_by_others_is_charged_when_it_is_spent_all_the_same() -> None:
    added = Added()
    meter, lease, reservation, _ = opened(added, 200)
    _, _, refunded, _ = opened(added, 1)
    refunded.add(meter, lease, 100)
    lease.recorded = 500
    lease.lose()
    meter.begin_anew(lease)
    assert meter.lease is not lease
    reservation.settle(Usage(60, 0))
    refunded.refund()
    await asyncio.sleep(0)
    await lease.close()
    assert added == [60]
    assert lease.outstanding == 0


async def test_nothing_a_record_speaks_of_is_subtracted() -> None:
    added = Added()
    _, lease, reservation, _ = opened(added, 200)
    lease.recorded = 500
    reservation.refund()
    lease.part()
    await asyncio.sleep(0)
    assert added == []
    lease.note_recorded(100)
    await lease.close()
    assert added == [-400], "a hundred may be given back by others"
    lease.note_recorded(0)
    await lease.close()
    assert sum(added) == -500
