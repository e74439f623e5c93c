"""Refusal: what a counter had no more of a moment ago is not asked for again at once."""

from __future__ import annotations

import time

_FIRST_S, _LONGEST_S = 0.05, 0.8


class Refusal:
    """What one lease knows of it. Pauses grow while nothing changes."""

    __slots__ = ("_from", "_pause_s", "_until", "is_outdated")

    def __init__(self) -> None:
        self._from, self._until = 0, 0.0
        self._pause_s = _FIRST_S
        self.is_outdated = False
        """Whether something came back since `begin`, which who was refused may have."""

    def covers(self, amount: int) -> bool:
        """Say whether so much is known not to be had."""
        return amount >= self._from and time.monotonic() < self._until

    def begin(self) -> None:
        """The counter is asked for the last time."""
        self.is_outdated = False

    def note(self, amount: int) -> None:
        """So much was not to be had, unless something came back meanwhile."""
        if not self.is_outdated:
            self._from, self._until = amount, time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)

    def outdate(self) -> None:
        """Something has come back."""
        self._until = 0.0
        self.is_outdated = True

    def shorten(self) -> None:
        """Others have something to give: pauses begin anew."""
        self._pause_s = _FIRST_S
