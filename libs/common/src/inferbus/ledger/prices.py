"""Prices: the `prices` bucket as a local copy, and how it is written.

`<model>` is the price of today, `<model>.<version>` the same figures for ever: a request is charged at the price it was
admitted with, whatever is set while it runs.
"""

from __future__ import annotations

import time

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.audit import PROGRAM, Actor, AuditedStore, Change
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.codec import to_json
from inferbus.contracts.prices import Price, check_price
from inferbus.errors import InvalidRequest
from inferbus.routes import token_safe

_MOST_FOUND = 4096
log = structlog.get_logger()


class PriceBook(LocalCopy):
    """Prices without asking anybody. What has no price costs nothing."""

    def __init__(self, bus: Bus) -> None:
        self._prices: dict[str, Price] = {}
        self._found: dict[tuple[str, str], Price | None] = {}
        super().__init__(bus, routes.KV_PRICES)

    def price_of(self, model: str, version: str = "") -> Price | None:
        """Find a model's price: that of a version, where it is known, else the one of today."""
        try:
            return self._found[model, version]  # it is asked for several times in every request
        except KeyError:
            if len(self._found) >= _MOST_FOUND:
                self._found.clear()
            found = self._found[model, version] = self._find(model, version)
            return found

    def _find(self, model: str, version: str) -> Price | None:
        name = token_safe(model)
        old = self._prices.get(f"{name}.{version}") if version else None
        return old or self._prices.get(name)

    def _on_change(self, key: str, value: bytes | None) -> None:
        self._found.clear()
        if value is None:
            self._prices.pop(key, None)
            return
        try:
            self._prices[key] = check_price(msgspec.json.decode(value, type=Price))
        except (msgspec.DecodeError, InvalidRequest) as exc:
            log.error("price_refused", key=key, error=str(exc))  # what was known of it stays


async def set_price(bus: Bus, model: str, price: Price, actor: Actor = PROGRAM) -> Price:
    """Set a model's price from now on, under a version of its own, with an audit event.

    Raises:
        InvalidRequest: the message names the field. DependencyDown: the bus is away. Overloaded: others are changing it.
    """
    check_price(price)
    version = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"{time.time_ns() // 1000 % 1_000_000:06d}"
    price = msgspec.structs.replace(price, version=version, model=model)
    name = token_safe(model)
    # The version first: it must be known by the time it is in force.
    await bus.kv_put(routes.KV_PRICES, f"{name}.{version}", to_json(price))
    change = Change(bucket=routes.KV_PRICES, key=name, action="price_set", replaces=True)
    await AuditedStore(bus, actor).change(change, Price, lambda _: price)
    return price


async def stored_prices(bus: Bus) -> list[Price]:
    """Read the prices of today, by model."""
    keys = [key for key in await bus.kv_keys(routes.KV_PRICES) if "." not in key]
    values = [await bus.kv_get(routes.KV_PRICES, key) for key in keys]
    prices = [msgspec.json.decode(value, type=Price) for value in values if value]
    return sorted(prices, key=lambda price: price.model)
