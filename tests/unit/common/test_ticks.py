"""Periodic work falls on the machine's ticks."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from inferbus.ticks import TICK_S, until_tick


@given(wait_s=st.floats(0.01, 60), past_s=st.floats(0, 0.1))
def test_the_end_of_a_wait_is_a_tick(wait_s: float, past_s: float) -> None:
    before = time.monotonic()
    given_s = until_tick(wait_s, past_s=past_s)
    took_s = time.monotonic() - before

    tick_s = min(TICK_S, wait_s)
    assert 0.8 * wait_s - 1e-6 <= given_s <= 0.8 * wait_s + tick_s + 1e-6
    off_s = (before + given_s - past_s + tick_s / 2) % tick_s - tick_s / 2
    assert -took_s - 1e-6 <= off_s <= 1e-6


def test_waits_that_begin_at_different_times_end_together() -> None:
    ends = {round(time.monotonic() + until_tick(5.0), 3) for _ in range(3)}

    assert len(ends) == 1 or max(ends) - min(ends) >= TICK_S - 0.01  # a tick may pass while we ask
