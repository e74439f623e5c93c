"""Windows: which spans of time events are added up over. Times are integer microseconds of Unix time.

A window of `length_us` ends every `every_us`, at whole multiples of it since 1970. Tumbling: both are the same. Time is
cut into panes of `every_us`; the window that ends with pane `p` has the `panes` panes up to and including `p`. A window
is named by that last pane everywhere.
"""

from __future__ import annotations

import msgspec

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
MAX_PANES = 1440


class BadWindow(ValueError):
    """No such window can be made; the message says why."""


class Window(msgspec.Struct, frozen=True):
    """Made by `tumbling` and `sliding`, which check it."""

    length_us: int
    every_us: int

    @property
    def panes(self) -> int:
        return self.length_us // self.every_us

    def pane_of(self, time_us: int) -> int:
        """Give the pane a time lies in: from its begin, up to but not including its end."""
        return time_us // self.every_us

    def begin_of(self, pane: int) -> int:
        """Say when a pane begins, in microseconds."""
        return pane * self.every_us

    def holding(self, pane: int) -> range:
        """Give the windows an event in `pane` is in, by their last panes."""
        return range(pane, pane + self.panes)

    def timestamp_of(self, last_pane: int, events: int) -> int:
        """Date a window's values, in microseconds: the begin of its last pane, and a microsecond for each event in it.

        Of two values of one window that made of more events is newer, whatever order they came in; any value of a later
        window is newer than all of them. So a store that keeps the newest has the right one, however often and in
        whatever order values are written, and history and stream date the same values alike.
        """
        return self.begin_of(last_pane) + min(events, self.every_us - 1)


def tumbling(length_us: int) -> Window:
    """Make windows that follow each other.

    Raises:
        BadWindow: shorter than a second.
    """
    return sliding(length_us, length_us)


def sliding(length_us: int, every_us: int) -> Window:
    """Make windows of `length_us`, a new one every `every_us`.

    Raises:
        BadWindow: shorter than a second, not a whole number of steps long, or of more than `MAX_PANES` steps.
    """
    if every_us < SECOND_US:
        raise BadWindow(f"a window moves by at least {SECOND_US} us, not by {every_us}")
    if length_us < every_us or length_us % every_us:
        raise BadWindow(f"a window of {length_us} us is not a whole number of steps of {every_us} us")
    if length_us // every_us > MAX_PANES:
        raise BadWindow(f"a window of {length_us // every_us} steps: at most {MAX_PANES}")
    return Window(length_us, every_us)
