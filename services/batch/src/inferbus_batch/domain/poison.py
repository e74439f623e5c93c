"""Poison: when a chunk, and not chance, is what ends the processes that work on it. Pure."""

from __future__ import annotations

import msgspec

BESIDE, ALONE, GIVING_UP = "beside", "alone", "giving_up"
"""How a chunk is worked on: beside others, with no other in its process, or only to give its rows an error."""
_SUSPECT = 1


class DeathNote(msgspec.Struct, frozen=True, kw_only=True):
    """How often a process ended while it worked on a chunk; `alone`: how often with no other beside. `running`: somebody works on
    it, and how; `blind`: even giving it up ended a process, so that its lines are not read again."""

    deaths: int = 0
    alone: int = 0
    running: str = ""
    blind: bool = False

    def counted(self) -> DeathNote:
        """Count what nobody has ended."""
        if not self.running:
            return self
        return DeathNote(
            deaths=self.deaths + 1, alone=self.alone + (self.running != BESIDE),
            blind=self.blind or self.running == GIVING_UP,
        )  # fmt: skip

    def how(self, limit: int) -> str:
        """Say how it is to be worked on now. What died beside others may be another's fault: it is tried alone. After `limit`
        deaths, the last of them alone, it is given up."""
        if self.deaths >= limit and self.alone:
            return GIVING_UP
        return ALONE if self.deaths >= _SUSPECT else BESIDE
