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
        self._until = time.monotonic() + envelope.deadline_ms / 1000
        self._stop = stop
        self._asked = False
        """Whether a worker may have it at the moment."""

    def begin(self) -> None:
        exchange = self._exchange
        exchange.accepted()
        exchange.handed_over()
        task = asyncio.create_task(self._ask(), name="direct")
        exchange.on_closed(lambda: self._on_closed(task))

    def _on_closed(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        if self._asked:
            self._stop(self._exchange)

    async def _ask(self) -> None:
        """Ask until somebody takes it, for a second at most."""
        give_up = min(self._until, time.monotonic() + _TRY_S)
        pause_s = _PAUSE_S
        while True:
            why = await self._try()
            if why is None:
                return
            if time.monotonic() + pause_s > give_up:
                self._exchange.fail(why)
                return
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  # not for secrets
            pause_s = min(_MAX_PAUSE_S, pause_s * 2)
            self._headers[_DEADLINE] = str(max(1, int((self._until - time.monotonic()) * 1000)))

    async def _try(self) -> InferbusError | None:
        """Ask one worker; gives why it did not take it."""
        left_s = max(0.001, self._until - time.monotonic())
        self._asked = True
        try:
            message = await self._bus.request(self._subject, self._body, dict(self._headers), timeout_s=left_s)
            self._asked = False
            frame = _decode(message.data)[0]
        except NoResponders:
            self._asked = False
            return Overloaded("no worker is there to take it")
        except msgspec.DecodeError as exc:
            self._exchange.fail(InferbusError(f"a worker's answer cannot be read: {exc}"))
        except InferbusError as exc:
            self._exchange.fail(exc)
        else:
            if type(frame) is Failed and not frame.final and frame.code in _NEVER_RAN:
                return Overloaded(frame.message)
            self._exchange.feed(frame)
        return None
