"""A constant load of streamed requests, each judged by the oracle when it ends, and what was counted of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Self

import msgspec
from tests.chaos.assembled import assemble
from tests.chaos.oracle import Question, judge
from tests.chaos.platform import ChaosPlatform
from tests.chaos.streaming import BrokenOff, NeverEnded, Received, Refused, receive, receive_durably

_MOST_FAILURES = 20
_TRY_AGAIN_S = 0.2
_MOST_TRIES = 100
_LONG_WAIT_S, _BEFORE_S = 6.0, 2.0

Asks = Callable[[str, random.Random], Question]


class Tally(msgspec.Struct, kw_only=True):
    """What came of all requests. `lost` and `doubled` are tokens, `wrong` answers with any other flaw, `broken` streams
    that broke off, ended in an error or never ended; `refused` are 503s with Retry-After while a fault explains them
    (tried again, each in the end answered), `unexplained` any other refusal. `longest_stall_s` lies between two tokens,
    `longest_wait_s` before the first. `failures` tells the first of them all, `slow` of those that waited long.
    `durable` of the requests were durable; their clients came back `returns` times after their gateway was gone."""

    requests: int = 0
    tokens: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    broken: int = 0
    refused: int = 0
    unexplained: int = 0
    moved: int = 0
    durable: int = 0
    returns: int = 0
    longest_stall_s: float = 0.0
    longest_wait_s: float = 0.0
    failures: list[str] = []
    slow: list[str] = []

    @property
    def flawless(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.broken or self.unexplained)

    def fail(self, what: str) -> None:
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(what)


class Load:
    """`clients` loops that ask one streamed question after the other. Use `async with`; leaving waits for the answers.

    The first `durable` of them ask at the last gateway, whose death they survive by coming back to any; the others ask at
    the first one.
    """

    def __init__(
        self, platform: ChaosPlatform, ask: Asks, *, clients: int, draw: random.Random, durable: int = 0
    ) -> None:
        self._platform = platform
        self._ask = ask
        self._clients = clients
        self._durable = durable
        self._draw = draw
        self._going = True
        self._tasks: list[asyncio.Task[None]] = []
        self._open: dict[str, Received] = {}
        self._count = 0
        self.refusals_allowed = False
        self.faults: list[tuple[float, str]] = []
        self.tally = Tally()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._loop(n < self._durable)) for n in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    def open_streams(self) -> list[Received]:
        return list(self._open.values())

    def check(self) -> None:
        """Raise what ended a client: a bug of this program."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _loop(self, durable: bool) -> None:
        while self._going:
            self._count += 1
            name = f"q{self._count}"
            question = self._ask(name, self._draw)
            for attempt in range(_MOST_TRIES):
                if await self._once(question, f"{name}-{attempt}", durable):
                    break

    async def _once(self, question: Question, request_id: str, durable: bool) -> bool:
        """Ask once. False: refused, ask again."""
        gateways = self._platform.gateways
        gateway = gateways[-1 if durable else 0]
        received = Received(request_id=request_id, gateway=gateway, began=time.monotonic())
        self._open[request_id] = received
        headers = {"Authorization": f"Bearer {self._platform.key}", "X-Request-Id": request_id}
        tally = self.tally
        try:
            body = msgspec.json.encode(question.body)
            if durable:
                returns = await receive_durably(self._known_gateways, body, headers, received)
                tally.returns += returns
            else:
                await receive(self._platform.urls[gateway], body, headers, received)
        except Refused as refusal:
            await self._on_refusal(request_id, refusal)
            return False
        except (BrokenOff, NeverEnded) as exc:
            tally.broken += 1
            tally.fail(f"{request_id} {type(exc).__name__}: {exc}")
        finally:
            received.ended = time.monotonic()
            del self._open[request_id]
            self._platform.observer.forget(request_id)
        tally.durable += durable
        self._count_in(question, received)
        return True

    def _known_gateways(self) -> dict[str, str]:
        """Name the gateways for a durable client: the last one first."""
        return {name: self._platform.urls[name] for name in reversed(self._platform.gateways)}

    async def _on_refusal(self, request_id: str, refusal: Refused) -> None:
        if refusal.status == 503 and refusal.retry_after_s is not None and self.refusals_allowed:
            self.tally.refused += 1
        else:
            self.tally.unexplained += 1
            self.tally.fail(f"{request_id} {refusal}")
        await asyncio.sleep(min(refusal.retry_after_s or 0, _TRY_AGAIN_S))

    def _count_in(self, question: Question, received: Received) -> None:
        tally = self.tally
        whole = assemble(received.events)
        tally.requests += 1
        tally.tokens += sum(completion for _, completion in whole.tokens)
        tally.longest_stall_s = max(tally.longest_stall_s, received.longest_gap_s)
        self._note_wait(received)
        tally.moved += self._platform.observer.attempts(received.request_id) > 1
        flaws = judge(question, whole, received.request_id)
        tally.lost += flaws.lost
        tally.doubled += flaws.doubled
        tally.wrong += bool(flaws.wrong)
        if flaws.any:
            tally.fail(f"{received.request_id}: {flaws.lost} lost, {flaws.doubled} doubled, {'; '.join(flaws.wrong)}")

    def _note_wait(self, received: Received) -> None:
        """Note how long the first token took, and which faults fell into a long wait."""
        if not received.times:
            return
        wait_s = received.times[0] - received.began
        self.tally.longest_wait_s = max(self.tally.longest_wait_s, wait_s)
        if wait_s > _LONG_WAIT_S and len(self.tally.slow) < _MOST_FAILURES:
            names = [name for at, name in self.faults if received.began - _BEFORE_S < at < received.times[0]]
            self.tally.slow.append(
                f"{received.request_id} waited {wait_s:.1f} s for its first token ({', '.join(names)})"
            )
