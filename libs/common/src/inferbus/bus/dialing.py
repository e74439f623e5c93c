"""Dialing: the first connection to the bus. Later ones are nats-py's own, which never stops trying."""

from __future__ import annotations

import asyncio
from typing import Any

import nats.errors

from inferbus.bus.connection import Connection
from inferbus.bus.credentials import login_options, shown_url
from inferbus.errors import DependencyDown
from inferbus.settings import BusSettings

RETRY_S, REFUSED_RETRY_S = 0.1, 1.0
"""Between attempts; the second one after the server said that it will not have us."""


async def dial(
    nc: Connection, settings: BusSettings, refused: asyncio.Future[str], timeout_s: float, options: dict[str, Any]
) -> None:
    """Connect. nats-py tries for ever, also what can never be: whoever hears of a refusal sets `refused`, which ends it.

    Raises:
        DependencyDown: no server answered within `timeout_s` seconds; or, at once, it refused who we are, or we it.
    """
    every = {
        "servers": settings.url.split(","),
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RETRY_S,
        "connect_timeout": 2,
        "ping_interval": 5,
        "max_outstanding_pings": 2,
    }
    try:
        await _first(nc, login_options(settings) | every | options, refused, timeout_s)
    except (OSError, nats.errors.Error, TimeoutError) as exc:
        why = nc.last_error or exc  # while it retries, the timeout is ours and the reason is there
        raise DependencyDown(f"cannot connect to the bus at {shown_url(settings.url)}: {why!r}") from exc


async def _first(nc: Connection, options: dict[str, Any], refused: asyncio.Future[str], timeout_s: float) -> None:
    dialing = asyncio.create_task(nc.connect(**options))
    either: list[asyncio.Future[Any]] = [dialing, refused]
    try:
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if dialing.done():
            await dialing
            return
    finally:
        dialing.cancel()
        await asyncio.gather(dialing, return_exceptions=True)
    await nc.close()
    raise nats.errors.Error(refused.result()) if refused.done() else TimeoutError
