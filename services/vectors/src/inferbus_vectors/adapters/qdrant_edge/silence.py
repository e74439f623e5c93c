"""Silence: tells an owner that hangs from one that is busy, by what it has said and what it was asked. Pure.

An owner does one thing at a time and answers it; before what may take long it says so. So who is asked something and says
nothing for a while hangs. Time is counted in looks, not read from a clock: where this process itself stood still, or the
whole machine did, no looks were made, and nobody is blamed for that.
"""

from __future__ import annotations

LOOKS = 8
"""In the time that is allowed to an owner that has not said anything of long work."""


class Silence:
    """How long an owner has said nothing while something was expected of it. A look is made every `limit_s / LOOKS`;
    work that was announced as long may take `long_s`."""

    def __init__(self, limit_s: float, long_s: float) -> None:
        self.every_s = limit_s / LOOKS
        self._long_looks = max(LOOKS, int(long_s / self.every_s))
        self._looks = 0
        self._allowed = LOOKS

    def heard(self, *, begins_long_work: bool = False) -> None:
        """Note that it has said something."""
        self._looks = 0
        self._allowed = self._long_looks if begins_long_work else LOOKS

    def looked(self, *, expected: bool) -> bool:
        """Note a look; `expected`: something is expected of it. Says whether it hangs."""
        self._looks = self._looks + 1 if expected else 0
        return self._looks > self._allowed
