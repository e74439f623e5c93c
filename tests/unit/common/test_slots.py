"""Slots: the batch lane's bound, turns, and how much may be on order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.queue.slots import Slots
from inferbus.routes import BATCH, INTERACTIVE


@given(total=st.integers(1, 256), lanes=st.lists(st.booleans(), max_size=300))
def test_batch_never_holds_more_than_total_less_reserve(total: int, lanes: list[bool]) -> None:
    """One message at a time, as the batch lane pulls."""
    slots = Slots(total)
    batch = 0
    for is_batch in lanes:
        lane = BATCH if is_batch else INTERACTIVE
        if slots.free_for(lane, BATCH) > 0:
            slots.take()
            batch += is_batch
        assert batch <= total - slots.reserve
        assert slots.busy <= total


@pytest.mark.parametrize(("total", "reserve"), [(1, 0), (2, 1), (8, 1), (32, 2), (256, 16)])
def test_the_default_reserve_leaves_batch_something(total: int, reserve: int) -> None:
    assert Slots(total).reserve == reserve
    assert Slots(total).free_for(BATCH, BATCH) == total - reserve


def test_a_reserve_of_everything_is_refused_quietly_and_no_slots_loudly() -> None:
    assert Slots(4, reserve=9).reserve == 3
    assert Slots(4, reserve=0).free_for(BATCH, BATCH) == 4
    with pytest.raises(ValueError, match="at least one"):
        Slots(0)


def test_more_taken_than_there_are_leaves_none_free() -> None:
    slots = Slots(2)
    for _ in range(3):
        slots.take()
    assert slots.free == 0
    assert slots.free_for(INTERACTIVE, BATCH) == 0


def test_a_freed_slot_is_offered_in_rotating_order() -> None:
    slots = Slots(4)
    woken: list[str] = []
    forget = {name: slots.register(lambda name=name: woken.append(name)) for name in "abc"}
    firsts = []
    for _ in range(6):
        slots.take()
        slots.give()
        firsts.append(woken[0])
        assert sorted(woken) == ["a", "b", "c"], "all are told, one first"
        woken.clear()
    assert sorted(firsts[:3]) == ["a", "b", "c"]
    assert firsts[3:] == firsts[:3]
    forget["b"]()
    slots.take()
    slots.give()
    assert sorted(woken) == ["a", "c"]


@pytest.mark.parametrize(
    ("total", "sharers", "window"), [(32, 0, 8), (32, 2, 8), (32, 4, 4), (32, 32, 1), (1, 2, 1), (256, 2, 64)]
)
def test_on_order_is_a_quarter_and_less_among_many(total: int, sharers: int, window: int) -> None:
    slots = Slots(total)
    for _ in range(sharers):
        slots.register(lambda: None)
    assert slots.window == window
