"""Turns: one deal per pass of the event loop, to those that can pull, and on after the bus was away."""

from __future__ import annotations

import asyncio

import pytest

from inferbus.errors import DependencyDown
from inferbus.queue.fair_share import Share
from inferbus.queue.slots import Slots
from inferbus.queue.turns import Turns
from inferbus.routes import BATCH, INTERACTIVE


class FakeBucket:
    """Notes what is ordered."""

    def __init__(self, pending: int = 0) -> None:
        self.share = Share()
        self.share.pending = pending
        self.can_order = True
        self.held = 0
        self.rows_each = 1
        self.is_away = False
        self.orders: list[tuple[int, bool]] = []

    def order(self, count: int, *, standing: bool) -> None:
        if self.is_away:
            raise DependencyDown("away")
        self.orders.append((count, standing))
        self.share.ordered(count, standing=standing)


def turns_of(slots: Slots, *buckets: FakeBucket, lane: str = INTERACTIVE) -> Turns:
    turns = Turns(slots, lane)
    for bucket in buckets:
        turns.add(bucket)
    return turns


async def test_however_often_it_is_woken_it_deals_once() -> None:
    waiting, idle = FakeBucket(pending=9), FakeBucket()
    turns = turns_of(Slots(4), waiting, idle)
    for _ in range(5):
        turns.wake()
    assert not waiting.orders
    await asyncio.sleep(0)
    assert waiting.orders == [(4, False)]
    assert idle.orders == [(1, True)]


async def test_a_slot_that_came_free_is_dealt_and_none_after_the_end() -> None:
    slots, bucket = Slots(1), FakeBucket(pending=2)
    slots.take()
    turns = turns_of(slots, bucket)
    slots.give()
    await asyncio.sleep(0)
    assert bucket.orders == [(1, False)]
    turns.close()
    bucket.share.on_order = 0
    slots.take()
    slots.give()
    await asyncio.sleep(0)
    assert len(bucket.orders) == 1


async def test_slots_go_to_those_that_can_pull() -> None:
    paused, other = FakeBucket(pending=9), FakeBucket(pending=9)
    paused.can_order = False
    turns_of(Slots(4), paused, other).wake()
    await asyncio.sleep(0)
    assert (paused.orders, other.orders) == ([], [(4, False)])


async def test_what_could_not_be_sent_is_dealt_again() -> None:
    bucket = FakeBucket(pending=9)
    bucket.is_away = True
    turns = turns_of(Slots(4), bucket)
    turns.wake()
    await asyncio.sleep(0)
    assert bucket.share.on_order == 0
    bucket.is_away = False
    turns.wake()
    await asyncio.sleep(0)
    assert bucket.orders == [(4, False)]


async def test_batch_leaves_the_reserve() -> None:
    waiting, idle = FakeBucket(pending=99), FakeBucket()
    turns_of(Slots(16, reserve=2), waiting, idle, lane=BATCH).wake()
    await asyncio.sleep(0)
    assert waiting.orders == [(14, False)]
    assert idle.orders == [(1, True)]


@pytest.mark.parametrize(("total", "buckets", "window"), [(8, 2, 1), (64, 2, 8), (64, 16, 1), (512, 4, 32)])
def test_standing_orders_are_a_quarter_of_the_slots_together_or_one_each(total: int, buckets: int, window: int) -> None:
    slots, many = Slots(total), [FakeBucket() for _ in range(buckets)]
    assert turns_of(slots, *many).window == window
    assert turns_of(slots, *many, lane=BATCH).window == 1


def test_weights_go_by_number_and_the_rest_weighs_one() -> None:
    buckets = [FakeBucket(), FakeBucket(), FakeBucket()]
    turns = turns_of(Slots(1), *buckets)
    turns.weigh([5, 7, 9])
    turns.weigh([1, 3])
    assert [bucket.share.weight for bucket in buckets] == [1, 3, 1]
