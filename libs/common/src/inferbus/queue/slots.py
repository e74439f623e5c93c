"""Slots: how many requests a worker runs at once, shared by its intakes: a lane each, or buckets that take `turns`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Slots:
    """A counter of `total` slots. The batch lane may hold at most `total - reserve`.

    Whoever wants to be told that a slot came free registers; they are asked in rotating order, so that none is always
    first.

    Slots count what runs, not what an intake's standing pull may still bring (reserving for it would starve the others
    while a queue is empty). One intake alone never runs more than `total`; where several share the slots, they may
    together overshoot by what the others' pulls bring: an interactive intake's by at most `window`, a batch one's by 1,
    or, while it knows of more that waits, by a `handful`, for as long as a pull takes.

    A message of the batch lane may bring several rows, which take their slots here (`want`), in the order they came: what
    lies here goes before what is still to be pulled.
    """

    def __init__(self, total: int, *, reserve: int | None = None) -> None:
        if total < 1:
            raise ValueError("at least one slot")
        self.total = total
        self.reserve = min(total - 1, max(1, total // 16) if reserve is None else reserve)
        self.busy = 0
        self._wakers: list[Callable[[], None]] = []
        self._turn = 0
        self._rows: deque[asyncio.Future[bool]] = deque()
        self._is_open = True

    @property
    def free(self) -> int:
        return max(0, self.total - self.busy)

    @property
    def window(self) -> int:
        """Give the most that one intake may have on order: a quarter of the slots, less where many share them."""
        return max(1, self.total // max(4, 2 * len(self._wakers)))

    @property
    def handful(self) -> int:
        """Give the most that a batch intake may have on order while it knows that they are there."""
        return max(1, self.total // 8)

    def free_for(self, lane: str, batch_lane: str) -> int:
        """Give the slots a lane may fill now."""
        return max(0, self.free - self.reserve - len(self._rows)) if lane == batch_lane else self.free

    def register(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called whenever a slot came free; call what is returned to end that."""
        self._wakers.append(wake)
        return lambda: self._wakers.remove(wake)

    def take(self) -> None:
        self.busy += 1

    def give(self) -> None:
        """Return a slot and let the next intake in turn pull first."""
        self.busy -= 1
        self._serve_rows()
        count = len(self._wakers)
        self._turn += 1
        for i in range(count):
            self._wakers[(self._turn + i) % count]()

    # --- rows that lie here -------------------------------------------------------------------------------------------

    def want(self) -> asyncio.Future[bool]:
        """Ask for a slot of the batch lane: True once it is taken, False where nothing is begun any more."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._is_open:
            self._rows.append(turn)
            self._serve_rows()
        else:
            turn.set_result(False)
        return turn

    def turn_away(self) -> None:
        """Begin no row that waits here, nor any to come until `reopen`."""
        self._is_open = False
        rows, self._rows = self._rows, deque()
        for turn in rows:
            if not turn.done():
                turn.set_result(False)

    def reopen(self) -> None:
        self._is_open = True

    def _serve_rows(self) -> None:
        while self._rows and self.free > self.reserve:
            turn = self._rows.popleft()
            if not turn.done():  # whoever wanted it may be gone
                self.take()
                turn.set_result(True)


def once(give: Callable[[], None]) -> Callable[[], None]:
    """Have a slot returned the first time only."""
    held = [give]

    def give_once() -> None:
        if held:
            held.pop()()

    return give_once
