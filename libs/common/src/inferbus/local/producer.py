"""A producer on the bus, for whoever works on this machine: the local platform's, or as the environment says."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from inferbus.client import Client
from inferbus.errors import DependencyDown
from inferbus.local.identities import DEV, settings_of
from inferbus.local.layout import find_layout
from inferbus.local.lock import holder_of
from inferbus.local.state import read_state
from inferbus.settings import BusSettings, from_env

TENANT = "INFERBUS_TENANT"
_OF_CLIENT = ("user", "password", "nkey_seed", "nkey_seed_file", "tls_ca", "tls_cert", "tls_key")


class Connection(msgspec.Struct, frozen=True):
    """How a client connects; can be sent to another process, which makes its own."""

    url: str
    tenant: str
    options: dict[str, Any]

    def client(self) -> Client:
        return Client(self.url, tenant=self.tenant, **self.options)


def local_connection() -> Connection:
    """Say where the bus is that `INFERBUS_BUS_URL` names (tenant: `INFERBUS_TENANT`), else that of the platform of this
    folder.

    Raises:
        DependencyDown, NotACheckout: there is none.
    """
    tenant = os.environ.get(TENANT, DEV)
    if "INFERBUS_BUS_URL" in os.environ:
        settings = from_env(BusSettings, "bus")
    else:
        layout = find_layout()
        state = read_state(layout)
        if holder_of(layout.lock) is None or state is None or not state.bus_url:
            raise DependencyDown("no platform is running here: `make up` or `inferbus up` starts one")
        settings = settings_of(layout, DEV, url=state.bus_url, region=state.region)
    known = msgspec.structs.asdict(settings)
    return Connection(settings.url, tenant, {name: known[name] for name in _OF_CLIENT})


def local_client() -> Client:
    """Make a client of that bus. Raises as `local_connection`."""
    return local_connection().client()
