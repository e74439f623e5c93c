"""Counters: numbers on the bus that many processes add to at once. Every increment has an id.

What is certain after a lost acknowledgement differs by direction. A retried addition that counted twice only leaves a
little unused; a retried subtraction that counted twice would let the limit be passed (a server restarted in between has
forgotten the id, since a counter keeps its last message only). So additions are retried, subtractions never are.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time

import msgspec

from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders
from inferbus.errors import DependencyDown

_ATTEMPT_S = 1.0
_ONLY_ATTEMPT_S = 5.0
_AGAIN_S = 0.02


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Counted(msgspec.Struct):
    val: str = ""
    duplicate: bool = False
    error: _Error | None = None


class RefusedIncrement(DependencyDown):
    """The server did not count it, and would not the next time."""


_decode = msgspec.json.Decoder(_Counted).decode


class Counters:
    """Adds to counters. `hold_s`: how long an addition is tried while the bus is away."""

    def __init__(self, bus: Bus, *, hold_s: float = 2.0) -> None:
        self._bus = bus
        self._hold_s = hold_s
        self._me = secrets.token_hex(8)
        self._numbers = itertools.count()
        self.calls = 0

    async def add(self, subject: str, delta: int, *, msg_id: str = "") -> int:
        """Add `delta` to a counter; give its value, this addition included.

        After a lost acknowledgement the value may be a later one, others' additions included. It is read by adding 0,
        through the stream's leader: a direct get may be answered by a replica that is behind.

        Raises:
            DependencyDown: it is not known whether it was added, or it was refused.
        """
        msg_id = msg_id or f"{self._me}:{next(self._numbers)}"
        give_up = time.monotonic() + self._hold_s
        while True:
            await self._bus.wait_connected(max(0.01, give_up - time.monotonic()))
            try:
                value = await self._send(subject, delta, msg_id)
                return value if value is not None else await self.add(subject, 0)
            except RefusedIncrement:
                raise
            except NoResponders:  # nothing was stored: no leader at the moment
                if time.monotonic() + _AGAIN_S >= give_up:
                    raise
            except DependencyDown:
                if delta < 0 or time.monotonic() + _AGAIN_S >= give_up:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def _send(self, subject: str, delta: int, msg_id: str) -> int | None:
        """Send an increment; None where it had been counted before."""
        self.calls += 1
        headers = {"Nats-Incr": f"{delta:+d}", "Nats-Msg-Id": msg_id}
        answer = await self._bus.request(subject, b"", headers, timeout_s=_ATTEMPT_S if delta >= 0 else _ONLY_ATTEMPT_S)
        try:
            counted = _decode(answer.data)
            if counted.error is None:
                return None if counted.duplicate else int(counted.val)
        except (msgspec.DecodeError, ValueError) as exc:
            raise DependencyDown(f"unreadable answer of a counter: {exc}") from exc
        raise RefusedIncrement(f"the bus refused an increment: {counted.error.description} ({counted.error.err_code})")
