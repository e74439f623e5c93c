"""LimitsBook: the `limits` bucket as a local copy that is never more than a moment old."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.watch import KvWatch
from inferbus.contracts.limits import LimitSet, limits_from
from inferbus.errors import InvalidRequest

log = structlog.get_logger()


class LimitsBook:
    """Knows the limits of every scope by its key (`contracts.limits.limit_key`)."""

    def __init__(self, bus: Bus, on_change: Callable[[str], None] = lambda _: None) -> None:
        """`on_change` is called with the key that changed."""
        self._changed = on_change
        self._limits: dict[str, LimitSet] = {}
        self._watch = KvWatch(bus, routes.KV_LIMITS, self._on_change)

    async def start(self) -> None:
        await self._watch.start()

    async def loaded(self) -> None:
        await self._watch.ready.wait()

    @property
    def ready(self) -> bool:
        return self._watch.ready.is_set()

    async def stop(self) -> None:
        await self._watch.stop()

    def find(self, key: str) -> LimitSet | None:
        return self._limits.get(key)

    def _on_change(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._limits.pop(key, None)
        else:
            try:
                self._limits[key] = limits_from(msgspec.json.decode(value))
            except (msgspec.DecodeError, InvalidRequest) as exc:
                log.error("limits_refused", key=key, error=str(exc))  # what was known of it stays
                return
        self._changed(key)
