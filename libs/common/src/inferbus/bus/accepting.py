"""Accepting: a durable accept that nobody waits for. Whoever waits for an answer to what is accepted is woken once, by the
answer, and not also by the bus's word that it is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from nats.aio.msg import Msg

from inferbus.bus.bus import AGAIN_S, MIN_ANSWER_S, Bus, named
from inferbus.bus.pub_ack import sequence_of
from inferbus.bus.waiting import NotPermitted
from inferbus.errors import DependencyDown, InferbusError

Told = Callable[[int | InferbusError], None]
"""Hears the sequence in the stream, or what `Bus.accept` would raise."""


class Accepting:
    """One message on its way into a stream, as with `Bus.accept`; `begin` it once. `told` is called once."""

    __slots__ = ("_bus", "_data", "_headers", "_subject", "_told", "_until")

    def __init__(
        self, bus: Bus, subject: str, data: bytes, headers: dict[str, str], told: Told, *, msg_id: str, ttl_s: int,
        hold_s: float,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._subject = subject
        self._data = data
        self._headers = named(headers, msg_id, ttl_s)
        self._told = told
        self._until = time.monotonic() + hold_s

    def begin(self) -> None:
        """Publish it, and again where the bus does not answer or is away, as long as it may be held.

        Raises:
            TooLarge, InvalidRequest: nothing was sent, and nobody is told.
        """
        timeout_s = max(MIN_ANSWER_S, self._until - time.monotonic())
        try:
            self._bus.ask(self._subject, self._data, self._headers, self._on_answer, timeout_s=timeout_s)
        except DependencyDown as exc:
            self._on_error(exc)

    def _on_answer(self, answer: Msg | DependencyDown) -> None:
        if isinstance(answer, DependencyDown):
            self._on_error(answer)
            return
        try:
            sequence = sequence_of(answer.data)
        except InferbusError as exc:
            self._on_error(exc)
        else:
            self._told(sequence)

    def _on_error(self, error: InferbusError) -> None:
        may_pass = isinstance(error, DependencyDown) and not isinstance(error, NotPermitted)
        if may_pass and time.monotonic() + AGAIN_S < self._until:
            asyncio.get_running_loop().call_later(AGAIN_S, self._begin_again)
        else:
            self._told(error)

    def _begin_again(self) -> None:
        try:
            self.begin()
        except InferbusError as exc:  # what could be sent before cannot be now: the server has other bounds
            self._told(exc)
