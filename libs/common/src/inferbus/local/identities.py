"""The bus users of a local platform: one per service and pool, one development producer; made once, seeds of mode 0600."""

from __future__ import annotations

from inferbus.bus_users.folder import UsersFolder
from inferbus.bus_users.user import PRODUCER, WORKER, Pool, producer_login
from inferbus.local.layout import Layout
from inferbus.local.secrets import ROLES
from inferbus.local.serving import Served
from inferbus.settings import BusSettings

DEV = "dev"
_OTHERS = {WORKER, DEV}


def users_folder(layout: Layout) -> UsersFolder:
    return UsersFolder(layout.bus, layout.nats_conf)


def provide_bus_users(layout: Layout, served: list[Served], region: str) -> None:
    """See that every process of the platform has a bus user, and write the server's configuration.

    Raises:
        BadTemplate: the template does not fit. msgspec.DecodeError: `users.json` was damaged by hand.
    """
    folder = users_folder(layout)
    for role in ROLES:
        if role not in _OTHERS:
            folder.ensure(role, role)
    folder.ensure(DEV, PRODUCER, tenant=DEV)
    for one in served:
        pool = Pool(pool=one.entry.pool, runtime=one.entry.runtime, region=region)
        folder.ensure(pool_user(one.entry.pool), WORKER, pools=(pool,))
    folder.refresh()


def pool_user(pool: str) -> str:
    """Give the name of the bus user that a pool's workers share."""
    return f"{WORKER}-{pool}"


def login_of(name: str) -> str:
    """Give the `INFERBUS_BUS_USER` that goes with one of these users' seeds."""
    if name == DEV:
        return producer_login(DEV)
    return f"{WORKER}.{name}" if name.startswith(f"{WORKER}-") else name


def settings_of(layout: Layout, name: str, *, url: str, region: str = "local") -> BusSettings:
    """Say how one of these users reaches the bus."""
    seed_file = str(users_folder(layout).seed_file(name))
    return BusSettings(url=url, user=login_of(name), nkey_seed_file=seed_file, region=region)
