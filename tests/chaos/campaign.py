"""A campaign: one fault after the other under load, each undone and the platform whole again before the next."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence

import msgspec
from tests.chaos.faults import Hit, Kind, hit
from tests.chaos.load import Load, Tally
from tests.chaos.platform import ChaosPlatform
from tests.chaos.streaming import Received

from inferbus.testing import eventually

_GOES_ON_S = 60.0
_SETTLED_S = 90.0


class KindTally(msgspec.Struct, kw_only=True):
    """Faults of one kind. `counted`: a stream that the victim held went on. `takeovers`: seconds from the fault to the
    first new token of each stream that moved to another worker."""

    done: int = 0
    counted: int = 0
    held: int = 0
    acks_in_flight: int = 0
    takeovers: list[float] = []


class Outcome(msgspec.Struct, kw_only=True):
    """Everything a campaign found. `left`: messages still in the queue at the end, dead letters included."""

    seed: int
    tally: Tally
    kinds: dict[str, KindTally]
    seconds: float
    left: int

    @property
    def counted(self) -> int:
        return sum(kind.counted for kind in self.kinds.values())

    def passed(self, faults: int) -> bool:
        return self.tally.flawless and not self.left and self.counted >= faults


class Campaign:
    """Hits a platform that is under load until `faults` faults have counted."""

    def __init__(
        self,
        platform: ChaosPlatform,
        load: Load,
        kinds: Sequence[Kind],
        *,
        draw: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._platform = platform
        self._load = load
        self._kinds = kinds
        self._draw = draw
        self._say = say
        self.tallies = {kind.name: KindTally() for kind in kinds}

    async def run(self, faults: int, *, most: int = 0) -> None:
        """Go on until so many faults have counted; gives up after `most` (by default half as many more)."""
        first = list(self._kinds)
        self._draw.shuffle(first)  # each kind once before chance decides
        for number in range(most or faults + faults // 2 + 5):
            if sum(tally.counted for tally in self.tallies.values()) >= faults:
                return
            weights = [kind.weight for kind in self._kinds]
            kind = first[number] if number < len(first) else self._draw.choices(self._kinds, weights)[0]
            await self._one(kind)
            self._load.check()

    async def _one(self, kind: Kind) -> None:
        load = self._load
        tally = self.tallies[kind.name]
        load.refusals_allowed = kind.refuses
        found, undo = await hit(self._platform, kind, self._draw, load.open_streams)
        load.faults.append((found.at, f"{kind.name} {found.victim}"))
        if kind.spare:
            await self._until_held_go_on(kind, found)
        await undo()
        await self._platform.full_strength()
        await self._until_held_go_on(kind, found)
        takeovers = list(found.takeovers.values())
        tally.done += 1
        tally.held += len(found.held)
        tally.acks_in_flight += found.acks_in_flight
        tally.takeovers += takeovers
        counts = bool(takeovers) if kind.moves else any(len(one.times) > had for one, had in found.held)
        tally.counted += counts
        self._say(
            f"{kind.name:<36} {found.victim:<10} held {len(found.held):>3}  moved {len(takeovers):>3}  "
            f"slowest {max(takeovers, default=0):5.2f} s{'' if counts else '  (does not count)'}"
        )
        load.refusals_allowed = False

    async def _until_held_go_on(self, kind: Kind, found: Hit) -> None:
        await eventually(
            lambda: all(self._went_on(kind, found, one, had) for one, had in found.held), within_s=_GOES_ON_S
        )

    def _went_on(self, kind: Kind, found: Hit, stream: Received, had: int) -> bool:
        """Whether a stream has ended or got further since the fault: elsewhere, if it had to move."""
        taken_s = self._takeover_s(found, stream)
        if taken_s > 0:
            found.takeovers[stream.request_id] = taken_s  # the observer forgets what has ended
        return stream.ended > 0 or (taken_s > 0 if kind.moves else len(stream.times) > had)

    def _takeover_s(self, found: Hit, stream: Received) -> float:
        """Give the time from the fault to the first token of a new attempt; 0 where there was none."""
        first = self._platform.observer.taken_over(stream, found.at)
        return first - found.at if first else 0.0


async def left_over(platform: ChaosPlatform) -> int:
    """Wait until nothing is queued and nothing runs; give what stays for ever, dead letters included."""
    with contextlib.suppress(AssertionError):  # the number says it
        await platform.settled(within_s=_SETTLED_S)
    return await platform.stored() + platform.observer.dead_letters


async def play(
    platform: ChaosPlatform,
    load: Load,
    kinds: Sequence[Kind],
    *,
    faults: int,
    seed: int,
    requests: int = 0,
    say: Callable[[str], None],
) -> Outcome:
    """Run a whole campaign: load, faults, at least `requests` requests, and the end of everything."""
    began = time.monotonic()
    draw = random.Random(seed)
    campaign = Campaign(platform, load, kinds, draw=draw, say=say)
    async with load:
        await campaign.run(faults)
        while load.tally.requests < requests:
            load.check()
            await asyncio.sleep(0.1)
    left = await left_over(platform)
    return Outcome(seed=seed, tally=load.tally, kinds=campaign.tallies, seconds=time.monotonic() - began, left=left)
