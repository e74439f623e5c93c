"""Ticks: what every process does now and then falls together.

An idle process pays for being woken, not for what it does then. The monotonic clock is the machine's, so the ticks of
its processes are the same: what one says there, the others hear while they are awake anyway.
"""

from __future__ import annotations

import math
import time

TICK_S = 0.5
_SOONEST = 0.8


def until_tick(wait_s: float, *, past_s: float = 0.0) -> float:
    """Give the seconds to a tick, or to `past_s` after one, that is about `wait_s` away: 0.8 of it at least, and less
    than a tick more. A wait shorter than a tick has ticks of its own length."""
    tick_s = min(TICK_S, wait_s)
    now = time.monotonic()
    return math.ceil((now + _SOONEST * wait_s - past_s) / tick_s) * tick_s + past_s - now
