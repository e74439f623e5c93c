"""The command line's own connection: to the platform of this folder, or wherever `INFERBUS_BUS_*` says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from inferbus.bus import Bus
from inferbus.local.identities import settings_of
from inferbus.local.layout import Layout, NotACheckout, find_layout
from inferbus.local.lock import holder_of
from inferbus.local.secrets import load_secrets
from inferbus.local.state import read_state
from inferbus.settings import BusSettings, from_env

_PEPPER = "INFERBUS_GATEWAY_KEY_PEPPER"


class NotRunning(Exception):
    """No platform runs in this folder and no other bus was named."""


def bus_settings() -> BusSettings:
    """Say which bus to talk to.

    Raises:
        NotRunning: neither `INFERBUS_BUS_URL` nor a running local platform.
    """
    if "INFERBUS_BUS_URL" in os.environ:
        return from_env(BusSettings, "bus")
    try:
        layout = find_layout()
    except NotACheckout as exc:
        raise NotRunning(
            f"{exc}; set INFERBUS_BUS_URL (and _USER, _NKEY_SEED_FILE or _PASSWORD) to talk to a bus elsewhere"
        ) from exc
    state = read_state(layout)
    if holder_of(layout.lock) is None or state is None or not state.bus_url:
        raise NotRunning("no platform is running here: `make up` or `inferbus up` starts one")
    return admin_settings(layout, state.bus_url, state.region)


def admin_settings(layout: Layout, bus_url: str, region: str) -> BusSettings:
    """Say how the command line reaches the bus of a local platform."""
    found = settings_of(layout, "admin", url=bus_url, region=region)
    return msgspec.structs.replace(found, connect_timeout_s=3.0)


def key_pepper() -> bytes:
    """Give the pepper the gateways use: from the environment, else the local platform's.

    Raises:
        NotRunning: neither is there; a key made without it would never be accepted.
    """
    if _PEPPER in os.environ:
        return os.environ[_PEPPER].encode()
    if "INFERBUS_BUS_URL" in os.environ:
        raise NotRunning(f"{_PEPPER} must be that of the gateways on this bus")
    return load_secrets(find_layout()).key_pepper.encode()


@asynccontextmanager
async def connected() -> AsyncIterator[Bus]:
    """Connect for one command.

    Raises:
        NotRunning: there is nothing to connect to.
        DependencyDown: there is, and it does not answer.
    """
    settings = bus_settings()
    bus = await Bus.connect(settings, name="inferbus-cli")
    try:
        yield bus
    finally:
        await bus.close()
