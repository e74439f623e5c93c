"""JetStreamLog: pushed messages as the bus stores them, read by sequence without a consumer, from a thread of its own kind.

Bytewax calls from a thread without an event loop; the connection has one here, which runs only while something is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import Stored, created_at, read_page
from inferbus.errors import DependencyDown
from inferbus.settings import BusSettings
from inferbus_features.ports import StoredEvents

_LOOK_AGAIN_S = 5.0
log = structlog.get_logger()


class JetStreamLog:
    """An `EventLog`. Connects when it is made.

    Raises:
        DependencyDown: the bus cannot be reached.
    """

    def __init__(self, settings: BusSettings, *, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._bus = self._loop.run_until_complete(Bus.connect(settings, name=name))
        self._born = ""
        self._looked = float("-inf")

    def born(self) -> str:
        """Say which log this is; empty while the bus is away."""
        now = time.monotonic()
        if now - self._looked > _LOOK_AGAIN_S:
            try:
                self._born = self._loop.run_until_complete(created_at(self._bus, routes.STREAM_FEATURES))
                self._looked = now
            except DependencyDown as exc:
                log.warning("windows_wait", error=exc.message)
                self._loop.run_until_complete(asyncio.sleep(0.1))
        return self._born

    def read(self, source: str, after: int, tenants: Sequence[str] = ()) -> StoredEvents:
        """Give what these tenants have pushed after a sequence, a page at a time; empty while the bus is away."""
        asked_us = time.time_ns() // 1000
        try:
            page, left = self._loop.run_until_complete(
                read_page(self._bus, routes.STREAM_FEATURES, routes.features_push("*", source), after + 1)
            )
        except DependencyDown as exc:
            log.warning("windows_wait", error=exc.message)
            self._looked = float("-inf")
            return StoredEvents([], 0)
        found = [
            (one.seq, _micros(one.headers["Nats-Time-Stamp"]), one.data if _is_of(one, tenants) else b"")
            for one in page
        ]
        return StoredEvents(found, 0 if left else max([asked_us, *(arrived for _, arrived, _ in found[-1:])]))

    def close(self) -> None:
        self._loop.run_until_complete(self._bus.close())
        self._loop.close()


def _is_of(stored: Stored, tenants: Sequence[str]) -> bool:
    return not tenants or routes.parse_features(stored.headers["Nats-Subject"]).tenant in tenants


def _micros(stamp: str) -> int:
    """Read RFC 3339 with up to nine digits of a second as microseconds."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000 + int((fraction + "000000")[:6])
