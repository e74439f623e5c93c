"""Direct delivery, the asking side: a request and its reply over a queue group, in no stream. At most once.

A worker that is full says so at once and another is tried; one that dies with a request says nothing, and the deadline
ends it. A client that goes away, or its deadline, stops it where it runs. Streams, durable requests and batch work of the same pool go through its queue.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import msgspec
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.answers.exchange import Exchange
from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders
from inferbus.codec import unpacker
from inferbus.contracts.envelope import RESULTS, Envelope, headers_of
from inferbus.contracts.models import DIRECT, ModelEntry
from inferbus.contracts.step import Failed, Finished
from inferbus.errors import DependencyDown, InferbusError, Overloaded

DEADLINE_S = 10.0
"""Where the client names none: nothing else ends a request whose worker died."""
_TRY_S = 1.0
_PAUSE_S, _MAX_PAUSE_S = 0.001, 0.05
_NEVER_RAN = (Overloaded.code, DependencyDown.code)
_DEADLINE = "Ib-Deadline-Ms"
_decode = unpacker(list[Finished | Failed]).decode


def goes_directly(entry: ModelEntry, *, lane: str, streamed: bool, delivery: str) -> bool:
    """Say whether a request for a model is delivered directly."""
    return entry.delivery == DIRECT and lane == routes.INTERACTIVE and not streamed and delivery != RESULTS


class DirectCall:
    """One request on its way; its exchange ends with it, and ends it. `begin` it once. `stop` has it stopped where it runs,
    if the exchange closes before an answer came."""

    def __init__(
        self,
        bus: Bus,
        exchange: Exchange,
        subject: str,
        body: bytes,
        envelope: Envelope,
        stop: Callable[[Exchange], None] = lambda _: None,
    ) -> None:
        self._bus = bus
        self._exchange = exchange
        self._subject = subject
        self._body = body
        self._headers = headers_of(envelope)
        now = time.monotonic()
        self._until = now + envelope.deadline_ms / 1000
        self._give_up = min(self._until, now + _TRY_S)
        self._pause_s = _PAUSE_S
        self._stop = stop
        self._token = ""
        """Of the question that has no answer yet: a worker may have the request."""
        self._pause: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Ask until somebody takes it, for a second at most."""
        exchange = self._exchange
        exchange.accepted()
        exchange.handed_over()
        exchange.on_closed(self._on_closed)
        self._ask(self._until - time.monotonic())

    def _on_closed(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self._token:
            self._bus.forget(self._token)
            self._stop(self._exchange)

    def _ask(self, left_s: float) -> None:
        """Ask one worker."""
        try:
            self._token = self._bus.ask(
                self._subject, self._body, self._headers, self._on_answer, timeout_s=max(0.001, left_s)
            )
        except InferbusError as exc:
            self._exchange.fail(exc)

    def _on_answer(self, answer: Msg | DependencyDown) -> None:
        if isinstance(answer, NoResponders):
            self._token = ""
            self._pause_after(Overloaded("no worker is there to take it"))
            return
        if isinstance(answer, DependencyDown):
            self._exchange.fail(answer)  # a worker may have it
            return
        self._token = ""
        try:
            frame = _decode(answer.data)[0]
        except msgspec.DecodeError as exc:
            self._exchange.fail(InferbusError(f"a worker's answer cannot be read: {exc}"))
            return
        if type(frame) is Failed and not frame.final and frame.code in _NEVER_RAN:
            self._pause_after(Overloaded(frame.message))
        else:
            self._exchange.feed(frame)

    def _pause_after(self, why: Overloaded) -> None:
        """Nobody took it: ask again in a moment, or give it up."""
        pause_s = self._pause_s
        if time.monotonic() + pause_s > self._give_up:
            self._exchange.fail(why)
            return
        self._pause_s = min(_MAX_PAUSE_S, pause_s * 2)
        wait_s = pause_s * random.uniform(0.5, 1.5)  # noqa: S311  # not for secrets
        self._pause = asyncio.get_running_loop().call_later(wait_s, self._ask_again)

    def _ask_again(self) -> None:
        left_s = self._until - time.monotonic()
        self._headers[_DEADLINE] = str(max(1, int(left_s * 1000)))
        self._ask(left_s)
