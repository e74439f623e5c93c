"""What reads took, for the ledger: one event a second for each key and service, not one a request.

An event for every request would cost as much as the request. What that means is said in docs/adr/0018-features.md: a
process that is killed takes up to a second of its counts with it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from inferbus.contracts.prices import cost
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import FINISHED, UsageEvent
from inferbus.ledger.names import usage_name
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.routes import FEATURES_POOL, INTERACTIVE, features_model

_EVERY_S = 1.0
TASK = "features"


class Asker(msgspec.Struct, frozen=True):
    """Who reads which service."""

    tenant: str
    key_id: str
    team: str
    user: str
    service: str


def _nothing(_asker: Asker, _requests: int, _rows: int) -> None: ...


class ReadUsage:
    """Adds up reads, and writes events of them. `me` is this process's incarnation, `now` gives Unix seconds; `noted` is told
    what is written: who asked, how often, for how many rows."""

    def __init__(
        self,
        log: UsageLog,
        prices: PriceBook,
        *,
        me: str,
        now: Callable[[], float],
        noted: Callable[[Asker, int, int], None] = _nothing,
    ) -> None:
        self._log = log
        self._prices = prices
        self._me = me
        self._now = now
        self._noted = noted
        self._counts: dict[Asker, list[int]] = {}
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_writing(), name="read-usage")

    def add(self, asker: Asker, rows: int) -> None:
        """One request was answered with so many rows."""
        counts = self._counts.get(asker)
        if counts is None:
            self._counts[asker] = [1, rows]
        else:
            counts[0] += 1
            counts[1] += rows

    async def stop(self) -> None:
        """Write what is there, and wait until it is stored."""
        if self._task is not None:
            self._task.cancel()
        self._write()
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self._write()

    def _write(self) -> None:
        counts, self._counts = self._counts, {}
        for asker, (requests, rows) in counts.items():
            self._noted(asker, requests, rows)
            number = next(self._numbers)
            record = self._log.begin(usage_name(self._me, number), self._event(asker, requests, rows, number))
            task = asyncio.create_task(self._log.settle(record, amend=False), name="read-usage-settle")
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    def _event(self, asker: Asker, requests: int, rows: int, number: int) -> UsageEvent:
        model = features_model(asker.service)
        price = self._prices.price_of(model)
        return UsageEvent(
            request_id=f"{self._me}-{number}", tenant=asker.tenant, key_id=asker.key_id, team=asker.team, user=asker.user,
            model=model, pool=FEATURES_POOL, version="", task=TASK, lane=INTERACTIVE, prompt_tokens=rows,
            completion_tokens=0, cached_tokens=0, queue_s=0.0, engine_s=0.0,
            cost=cost(price, Usage(rows)) if price is not None else 0,
            price_version=price.version if price is not None else "", outcome=FINISHED, trace_id="",
            at=round(self._now(), 3), requests=requests,
        )  # fmt: skip
