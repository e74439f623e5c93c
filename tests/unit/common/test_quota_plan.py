"""The quick way through all limits of a request: all or nothing, and shares that are filled before anybody waits."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.meter import COUNTED, Meter, Scope
from inferbus.admission.quota.plan import Plan
from inferbus.admission.quota.reservation import Reservation
from inferbus.admission.quota.slots import SlotLease
from inferbus.admission.quota.tokens import Estimate
from inferbus.contracts.step import Usage
from inferbus.testing import eventually

ORG = Scope("org.dev", "organisation dev", "dev", "org")
KEY = Scope("key.k1", "this key", "dev", "key-k1")
LIMIT = 10_000


class Added(dict[str, int]):
    """Counters without a bus; they answer while `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def add(self, subject: str, delta: int, *, msg_id: str = "") -> int:
        del msg_id
        self.calls.append((subject, delta))
        await self.open.wait()
        self[subject] = self.get(subject, 0) + delta
        return self[subject]


def meters(added: Added, free: int) -> list[Meter]:
    """Every kind of limit of a key and its organisation, with so much of each at hand."""
    made = [
        Meter(scope, kind, LIMIT, cast(Counters, added), lambda: 1, lambda _lease, _meter: None, 0.0)
        for scope in (KEY, ORG)
        for kind in COUNTED
    ]
    for meter in made:
        meter.lease.share.granted(free, free)
        added[meter.lease.subject] = free
    return made


def free_of(made: list[Meter]) -> list[int]:
    return [meter.lease.share.free for meter in made]


@given(short=st.integers(0, 7), tokens=st.integers(1, 500), money=st.integers(0, 500))
async def test_all_or_nothing(short: int, tokens: int, money: int) -> None:
    made = meters(Added(), 1000)
    plan = Plan(made, [])
    amounts = (1, tokens, money)
    missing = amounts[made[short].counts]
    share = made[short].lease.share
    share.free = missing - 1
    before = free_of(made)
    assert plan.try_take(amounts, 1.0) is None
    assert (free_of(made), [meter.lease.out for meter in made]) == (before, [0] * 8)
    share.free = missing
    before = free_of(made)
    taken = plan.try_take(amounts, 1.0)
    assert taken is not None
    assert free_of(made) == [had - amounts[meter.counts] for had, meter in zip(before, made, strict=True)]
    assert [meter.lease.out for meter in made] == [amounts[meter.counts] * meter.is_long for meter in made]
    reservation = Reservation(Estimate(tokens, 0))
    reservation.add_taken(taken)
    reservation.refund()
    assert (free_of(made), [meter.lease.out for meter in made]) == (before, [0] * 8)


async def test_what_is_not_spent_comes_back_and_the_request_stays_counted() -> None:
    made = meters(Added(), 1000)
    reservation = Reservation(Estimate(100, 0))
    reservation.add_taken(Plan(made, []).try_take((1, 100, 0), 1.0) or [])
    reservation.settle(Usage(30, 10))
    assert free_of(made) == [1000 - (1, 40, 0)[meter.counts] for meter in made]
    assert [meter.lease.spent for meter in made] == [(0, 40, 0)[meter.counts] * meter.is_long for meter in made]


async def test_the_next_window_and_a_lease_that_was_lost_are_found() -> None:
    made = meters(Added(), 1000)
    plan = Plan(made, [])
    assert plan.try_take((1, 1, 0), 1.0) is not None
    day = next(meter for meter in made if meter.kind.span == "day")
    old = day.lease
    old.lose()
    day.begin_anew(old)
    assert plan.try_take((1, 1, 0), 1.0) is None, "nothing is at hand in the new one"
    day.lease.share.granted(10, 10)
    assert plan.try_take((1, 1, 0), 1.0) is not None
    assert (old.out, day.lease.out) == (0, 1)
    minute = made[0].lease
    assert plan.try_take((1, 1, 0), 61.0) is None
    assert made[0].lease is not minute


async def test_nobody_passes_those_who_wait() -> None:
    added = Added()
    made = meters(added, 1000)
    plan = Plan(made, [])
    added.open.clear()
    waiting = asyncio.create_task(made[1].lease.take(2000))
    await eventually(lambda: made[1].lease.waiters)
    assert plan.try_take((1, 1, 0), 1.0) is None
    added.open.set()
    assert await waiting
    made[1].lease.put(1)
    assert plan.try_take((1, 1, 0), 1.0) is not None


async def test_a_share_is_filled_before_it_is_used_up() -> None:
    added = Added()
    made = meters(added, 80)
    plan, requests = Plan(made, []), made[0].lease
    for _ in range(70):
        assert plan.try_take((1, 0, 0), 1.0) is not None
    assert added.calls == []
    assert plan.try_take((1, 0, 0), 1.0) is not None
    await eventually(lambda: requests.share.free > 80)
    assert added.calls == [(requests.subject, 142), (made[4].lease.subject, 142)], "at once, and once each"
    assert requests.share.held == added[requests.subject] == 222


async def test_what_was_asked_ahead_is_returned_by_who_ends_meanwhile() -> None:
    added = Added()
    made = meters(added, 8)
    plan, lease = Plan(made, []), made[0].lease
    added.open.clear()
    assert plan.try_take((1, 0, 0), 1.0) is not None
    assert plan.try_take((7, 0, 0), 1.0) is not None
    await eventually(lambda: added.calls)
    closing = asyncio.create_task(lease.close())
    await asyncio.sleep(0)
    added.open.set()
    await closing
    assert added[lease.subject] == lease.share.held == 8, "what was given out stays"


async def test_near_the_end_of_a_limit_nothing_is_asked_ahead() -> None:
    added = Added()
    made = meters(added, LIMIT)
    plan = Plan(made, [])
    for _ in range(LIMIT // 8 + 1):
        assert plan.try_take((8, 0, 0), 1.0) is not None or made[0].lease.share.free < 8
    await asyncio.sleep(0)
    assert added.calls == []


async def test_slots_are_taken_of_all_or_of_none() -> None:
    def slots(held: int) -> SlotLease:
        lease = SlotLease(cast("object", None), "k", 10, "me", lambda: 0.0, lambda: 1)  # type: ignore[arg-type]  # it asks nobody
        lease._held, lease._until, lease.is_kept = held, 100.0, True
        return lease

    one, two = slots(2), slots(1)
    plan = Plan([], [(KEY, one), (ORG, two)])
    assert plan.try_take_slots(1.0) == [one, two]
    assert plan.try_take_slots(1.0) is None
    assert (one.used, two.used) == (1, 1)
    two.put()
    two.is_kept = False
    assert plan.try_take_slots(1.0) is None, "somebody must look after it first"
