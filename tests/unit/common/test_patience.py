"""Patience: the last wait counts, and the timer of an earlier one neither ends it nor is set again for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from inferbus.answers.patience import Patience


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time is what the test says; timers are kept and fired by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback, *args, context=None) -> asyncio.TimerHandle:  # type: ignore[no-untyped-def, override]
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self.timers.append(timer)
        return timer

    def pass_to(self, now: float) -> None:
        self.now = now
        for timer in [one for one in self.timers if one.when() <= now and not one.cancelled()]:
            self.timers.remove(timer)
            timer._run()


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.close()


def test_waits_that_follow_each_other_share_a_timer(clock: Clock) -> None:
    over: list[float] = []
    patience = Patience(clock, lambda: over.append(clock.now))
    for n in range(10):
        clock.now = 100.0 + n
        patience.begin(15.0)
    assert len(clock.timers) == 1
    clock.pass_to(115.0)
    assert over == [], "the last wait began at 109"
    clock.pass_to(123.9)
    assert over == []
    clock.pass_to(124.0)
    assert over == [124.0]
    clock.pass_to(200.0)
    assert over == [124.0], "once a wait"


def test_a_shorter_wait_is_over_before_the_timer_of_a_longer_one(clock: Clock) -> None:
    over: list[float] = []
    patience = Patience(clock, lambda: over.append(clock.now))
    patience.begin(15.0)
    patience.begin(2.0)
    clock.pass_to(102.0)
    assert over == [102.0]
    clock.pass_to(130.0)
    assert over == [102.0]


def test_a_wait_for_ever_is_not_ended_by_the_one_before_it(clock: Clock) -> None:
    over: list[float] = []
    patience = Patience(clock, lambda: over.append(clock.now))
    patience.begin(1.0)
    patience.begin(None)
    clock.pass_to(500.0)
    assert over == []
    patience.begin(1.0)
    patience.end()
    clock.pass_to(600.0)
    assert over == []


def test_a_timer_that_fires_a_little_early_ends_the_wait(clock: Clock) -> None:
    over: list[float] = []
    patience = Patience(clock, lambda: over.append(clock.now))
    patience.begin(1.0)
    clock.now = 100.9996
    clock.timers.pop()._run()
    assert over == [100.9996]
