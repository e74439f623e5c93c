"""Slots: shares of how many requests may be open at once. Unlike a counter's, a dead holder's share comes back by itself.

One record per limit in the bucket `slots` says who holds how many until when. It is only ever written over the revision
that was read, so the sum never exceeds the limit; it states what this holder has, not what it adds, so that a write whose
acknowledgement was lost is simply written again. The rules are pure (`claim`); the rest is reading and writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import last_stored
from inferbus.contracts.slots import SlotShares
from inferbus.errors import DependencyDown, InferbusError

HOLD_S = 10.0
"""How long a share is held without being renewed."""
RENEW_S = 3.0
_MARGIN_S = 1.0  # a holder lets go before others may take: clocks differ by a round trip
_KEEP_S = 60
_REFUSE_S = 0.05
_TRIES = 20
log = structlog.get_logger()


def claim(shares: SlotShares, holder: str, need: int, limit: int, now: float, holders: int) -> tuple[SlotShares, int]:
    """Give a record in which `holder` has `need` slots, and some more where there are many, as far as others leave them;
    expired holders are dropped. Returns it and how many slots the holder has in it."""
    others = {name: held for name, held in shares.holders.items() if name != holder and held[1] > now}
    left = max(0, limit - sum(count for count, _ in others.values()))
    mine = min(left, need + max(0, left - need) // (2 * max(1, holders))) if need else 0
    if mine:
        others[holder] = (mine, now + HOLD_S)
    return SlotShares(holders=others), mine


class SlotLease:
    """This holder's part of one limit of open requests."""

    def __init__(
        self, bus: Bus, key: str, limit: int, holder: str, clock: Callable[[], float], holders: Callable[[], int]
    ) -> None:
        self.limit = limit
        self.used = 0
        self.is_kept = False
        """Whether it is looked after (`Keeper`)."""
        self._bus = bus
        self._key = key
        self._holder = holder
        self._clock = clock
        self._holders = holders
        self._held = 0
        self._until = 0.0
        self._peak = 0
        self._lock = asyncio.Lock()
        self._refuse_until = 0.0

    @property
    def held(self) -> int:
        """How many this holder may have open now."""
        return self._held if self._held and self._clock() < self._until - _MARGIN_S else 0

    @property
    def remaining(self) -> int:
        return max(0, self.held - self.used)

    def try_take(self, now: float) -> bool:
        """Take one of those this process has; `now` is server time."""
        if self.used >= self._held or now >= self._until - _MARGIN_S:
            return False
        self.used += 1
        return True

    async def take(self) -> bool:
        """Take one. False: the limit is reached.

        Raises:
            DependencyDown: the record cannot be reached, and the share is used up.
        """
        if self.try_take(self._clock()):
            return True
        if self._clock() < self._refuse_until:
            return False
        async with self._lock:  # whoever waited behind another's write finds its result
            if self.try_take(self._clock()):
                return True
            if self._clock() < self._refuse_until:
                return False
            await self._write(self.used + 1)
            if self.try_take(self._clock()):
                return True
            self._refuse_until = self._clock() + _REFUSE_S
            return False

    def borrow(self) -> bool:
        """Take while the record cannot be reached: up to this process's equal part."""
        if self.used >= self.limit // max(1, self._holders()):
            return False
        self.used += 1
        return True

    def put(self) -> None:
        """One of those that were open has ended."""
        self._peak = max(self._peak, self.used)
        self.used -= 1

    async def tick(self) -> bool:
        """Renew what is held and let go of what was not needed. False: nothing is held.

        Raises:
            InferbusError: it could not be written.
        """
        peak, self._peak = max(self._peak, self.used), self.used
        is_old = self._until - self._clock() < HOLD_S - RENEW_S
        if self._held and (self._held > peak or is_old) and not self._lock.locked():
            async with self._lock:
                await self._write(max(self.used, min(peak, self._held)), exactly=True)
        return bool(self._held or self.used)

    async def close(self) -> None:
        """Let go of everything."""
        if self._held:
            async with self._lock:
                try:
                    await self._write(0)
                except InferbusError as exc:
                    log.info("slots_not_returned", key=self._key, error=exc.message)

    async def _write(self, need: int, *, exactly: bool = False) -> None:
        """Have `need` slots, or as many of them as there are, from now on."""
        subject = routes.kv_subject(routes.KV_SLOTS, self._key)
        holders = 1_000_000 if exactly else self._holders()
        for _ in range(_TRIES):
            stored = await last_stored(self._bus, routes.kv_stream(routes.KV_SLOTS), subject)
            shares = SlotShares() if stored is None else msgspec.json.decode(stored.data, type=SlotShares)
            now = self._clock()
            shares, mine = claim(shares, self._holder, need, self.limit, now, holders)
            expected = {EXPECTED: str(stored.seq if stored is not None else 0)}
            if mine < self._held:
                self._held = max(mine, min(self.used, self._held))  # let go before it is written
            try:
                await self._bus.accept(subject, msgspec.json.encode(shares), expected, ttl_s=_KEEP_S)
            except WrongSequence:  # another holder was first
                continue
            self._held, self._until = mine, now + HOLD_S
            return
        raise DependencyDown("too many gateways write the same share of open requests at once", retry_after_s=1.0)
