"""Lease: a share of one window's counter, with the round trips that fill it. Several waiters share one round trip.

What a record says this process has outstanding (`outstanding`) may be given back by others when it is dead. So nothing is
subtracted from the counter that a record still speaks of: what is parted with waits until it is written.

Who finds the counter used up has the other holders called (`Caller`), and asks it once more before he is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine

import structlog

from inferbus.admission.quota.caller import NOBODY, Caller
from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.refusal import Refusal
from inferbus.admission.quota.returns import Returns
from inferbus.admission.quota.share import Share, releasable
from inferbus.errors import InferbusError

_CALLING_S = 0.05
_Waiter = tuple[int, asyncio.Future[bool], float]
"""How much it needs, its answer, and until when others are called for it: 0.0, as long as nobody was."""
log = structlog.get_logger()


class Lease:
    """One window of one limit. `holders` tells how many processes share it. `spent` is what was settled and no
    budget has counted yet, `out` what open requests have reserved (of days and months), `recorded` what a record may say
    is outstanding, `is_lost` that others gave that back; `is_kept` that somebody looks after it (`Keeper`). `waiters` wait
    for more than the share holds. `wanted_by`: who has called for what is free here, and until when he is told of it."""

    __slots__ = (
        "__weakref__",
        "_caller",
        "_counters",
        "_filling",
        "_holders",
        "_on_use",
        "_refusal",
        "_returns",
        "_short",
        "_tasks",
        "is_kept",
        "is_lost",
        "out",
        "recorded",
        "share",
        "spent",
        "subject",
        "waiters",
        "wanted_by",
    )

    def __init__(
        self,
        counters: Counters,
        subject: str,
        limit: int,
        holders: Callable[[], int],
        on_use: Callable[[Lease], None],
        caller: Caller = NOBODY,
    ) -> None:
        """`on_use` is called whenever there is something to look after (`tick`)."""
        self.subject = subject
        self.share = Share(limit)
        self._counters = counters
        self._holders = holders
        self._on_use = on_use
        self._caller = caller
        self.spent = 0
        self.out = 0
        self.recorded = 0
        self.is_lost = self.is_kept = False
        self.waiters: deque[_Waiter] = deque()
        self.wanted_by: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._filling = False
        self._short: list[_Waiter] = []
        self._refusal = Refusal()
        self._returns = Returns(counters, subject, self._releasable, self._spawn)
        caller.know(self)

    def try_take(self, amount: int) -> bool:
        """Take without asking anybody; not past those who wait."""
        return not self.waiters and self.share.take(amount)

    async def take(self, amount: int) -> bool:
        """Take, asking the counter where the share is too small. False: the limit is used up.

        Raises:
            DependencyDown: the counter cannot be reached, and the share does not hold so much.
        """
        if self.try_take(amount):
            return True
        if self._is_refused(amount):
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._is_short_of(amount):
            self._short.append((amount, future, time.monotonic() + _CALLING_S))
        else:
            self.waiters.append((amount, future, 0.0))
            self._begin_fill(amount)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and future.result():
                self.share.put(amount)
            raise

    def ask_ahead(self, need: int = 0) -> None:
        """Ask the counter before somebody waits for it: `need` is what will be wanted in a moment, 0: what usually is."""
        self.share.low = 0
        if not self._is_refused(need) and not self._is_short_of(need):
            self._begin_fill(need)

    def put(self, amount: int) -> None:
        """Take back what was taken and not spent."""
        self.share.free += amount
        self._refusal.outdate()
        if not self.is_kept:
            self._on_use(self)
        if self.wanted_by:
            self._caller.hand_over(self)

    def settle(self, out: int, taken: int, spent: int) -> None:
        """A request that took of days or months has ended: `out` of what it took was counted as open. Take back what it did
        not spend, count what it spent beyond it; budgets hear of all it spent."""
        self.spent += spent
        if self.is_lost:  # what it had was given back, as if nothing of it would be spent any more
            self.overspend(spent)
            return
        self.out -= out
        if spent > taken:
            self.overspend(spent - taken)
            return
        self.put(taken - spent)

    def borrow(self, amount: int) -> bool:
        """Take beyond the share while the counter cannot be reached: up to this process's equal part of the limit. It is
        counted when the counter is back."""
        share = self.share
        if share.held - share.free + amount > share.limit // max(1, self._holders()):
            return False
        self._returns.debt += share.overspend(amount)
        self._on_use(self)
        return True

    def overspend(self, amount: int) -> None:
        """Count what was spent beyond what was taken."""
        self._returns.debt += self.share.overspend(amount)
        self._on_use(self)
        if self._returns.debt:
            self._returns.write_soon()

    def tick(self) -> bool:
        """Return what is not needed, count what is owed. False: there is nothing left to look after."""
        returns = self._returns
        returns.parting += self.share.tick()
        returns.write_soon()
        left = self.share.free or returns.debt or self.spent or returns.parting or self.out or self.recorded
        return bool(left or self.waiters or self._filling or returns.is_writing)

    @property
    def outstanding(self) -> int:
        """What is leased and not settled: what is free, and what open requests have reserved."""
        return max(0, self.share.free + self.out - self._returns.debt)

    def note_recorded(self, amount: int) -> None:
        """The record says that so much is outstanding, and no other record is on its way."""
        self.recorded = amount
        self._returns.write_soon()

    def lose(self) -> None:
        """Others have given back what this process had, as if it were dead: have it no more."""
        self.is_lost = True
        self.out = self.recorded = self._returns.parting = 0
        self.share.free = 0

    def part(self) -> None:
        """Return everything that is free."""
        self._returns.parting += self.share.give_back(self.share.free)
        self._returns.write_soon()

    async def release(self, most: int) -> int:
        """Return up to `most` of what is free. Gives, when the counter has it, how much that is, what was on its way included."""
        self._returns.parting += self.share.give_back(most)
        coming = self._returns.coming
        self._returns.write_soon()
        await self._returns.written()
        return coming

    @property
    def is_settling(self) -> bool:
        """Whether something is on its way to the counter."""
        return self._returns.is_writing

    @property
    def is_parting(self) -> bool:
        """Whether something is to be returned that a record speaks of."""
        return self._returns.parting > 0

    def forget_refusal(self) -> None:
        """There may be more now: ask, for the next one."""
        self._refusal.outdate()
        self._refusal.shorten()

    async def close(self) -> None:
        """Return everything that is free, and wait until it is returned."""
        self.part()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self.share.free:  # it was asked for ahead
                self.part()

    # --- round trips ------------------------------------------------------------------------------------------------

    def _is_refused(self, amount: int) -> bool:
        """Whether it is known without asking that so much is not to be had."""
        return amount > self.share.limit or self._refusal.covers(amount)

    def _is_short_of(self, amount: int) -> bool:
        """Whether others are being called for so much, or less."""
        return bool(self._short) and amount >= min(least for least, _, _ in self._short)

    def _begin_fill(self, need: int) -> None:
        if not self._filling:
            self._filling = True
            self._spawn(self._fill(need))

    async def _fill(self, need: int) -> None:
        """Ask the counter once, then until nobody waits."""
        try:
            asked = self._wanted(need)
            while asked and await self._ask(asked):
                asked = self._wanted(0) if self.waiters else 0
        finally:
            self._filling = False

    def _wanted(self, need: int) -> int:
        need = self._need() if self.waiters else need
        return self.share.ask(need, self._holders()) if need else self.share.ahead(self._holders())

    async def _ask(self, asked: int) -> bool:
        """Add to the counter, give what it grants to those who wait. False: it failed, and they were told."""
        try:
            value = await self._counters.add(self.subject, asked)
        except InferbusError as exc:
            self._fail(exc)
            return False
        except Exception as exc:  # whoever waits must be told
            log.exception("quota_lease_failed", subject=self.subject)
            self._fail(InferbusError(f"an internal error: {type(exc).__name__}"))
            return False
        back = self.share.granted(asked, value)
        self._on_use(self)
        self._returns.take_back(back)
        self._serve(is_last=back > 0)
        if back:
            self._returns.write_soon()
        return True

    def _need(self) -> int:
        """What those who wait need, as far as there may be so much; at least what the first one needs."""
        first = self.waiters[0][0]
        left = self.share.remaining
        return max(first, min(left, sum(amount for amount, _, _ in self.waiters)))

    def _serve(self, *, is_last: bool) -> None:
        """Give those who wait what is there, in turn. When nothing more is to be had, others are called; after that who waits
        is refused, unless something came back meanwhile."""
        kept: deque[_Waiter] = deque()
        short: list[_Waiter] = []
        refused: list[_Waiter] = []
        while self.waiters:
            amount, future, until = self.waiters.popleft()
            if future.done():  # it was cancelled meanwhile
                continue
            if self.share.take(amount):
                future.set_result(True)
            elif not is_last:
                kept.append((amount, future, until))
            elif not until:
                short.append((amount, future, time.monotonic() + _CALLING_S))
            else:
                (short if self._may_wait(until) else refused).append((amount, future, until))
        self.waiters = kept
        if refused:
            self._refuse(refused)
        if short or refused:
            self._returns.parting += self.share.give_back(self.share.free)  # another holder may have a use for it
        if short:
            self._short += short
            if len(self._short) == len(short):
                self._spawn(self._call())

    def _may_wait(self, until: float) -> bool:
        return self._refusal.is_outdated and time.monotonic() < until

    def _refuse(self, waiters: list[_Waiter]) -> None:
        """Refuse them, and whoever needs as much in the next moment: a longer one where nothing changes."""
        self._refusal.note(min(amount for amount, _, _ in waiters))
        for _, future, _ in waiters:
            future.set_result(False)

    async def _call(self) -> None:
        """Have others give back what they have free, and ask once more for those who found nothing."""
        try:
            await self._returns.written(_CALLING_S)
            self._refusal.begin()
            wanted = sum(amount for amount, _, _ in self._short)
            if await self._caller.call(self.subject, min(wanted, self.share.limit)):
                self._refusal.shorten()
        except Exception:  # whoever waits must be told
            log.exception("quota_call_failed", subject=self.subject)
        short, self._short = self._short, []
        self.waiters.extendleft(reversed(short))
        self._begin_fill(short[0][0])

    def _fail(self, error: InferbusError) -> None:
        waiters, self.waiters = self.waiters, deque()
        for _, future, _ in waiters:
            if not future.done():
                future.set_exception(error)

    def _releasable(self, parting: int, debt: int) -> int:
        return releasable(parting, self.share.free + self.out - debt, self.recorded)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="quota-lease")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
