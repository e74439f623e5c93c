"""LimitsBook: the `limits` bucket as a local copy that is never more than a moment old."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.contracts.limits import LimitSet, limits_from
from inferbus.errors import InvalidRequest

log = structlog.get_logger()


class LimitsBook(LocalCopy):
    """Knows the limits of every scope by its key (`contracts.limits.limit_key`)."""

    def __init__(self, bus: Bus, on_change: Callable[[str], None] = lambda _: None) -> None:
        """`on_change` is called with the key that changed."""
        self._changed = on_change
        self._limits: dict[str, LimitSet] = {}
        super().__init__(bus, routes.KV_LIMITS)

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
