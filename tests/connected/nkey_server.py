"""A real server whose users have NKeys, made from the deployed template as `inferbus bus-users` does."""

from __future__ import annotations

from pathlib import Path

from inferbus.bus import Bus
from inferbus.bus_users.folder import UsersFolder
from inferbus.bus_users.user import Pool
from inferbus.contracts.models import ModelEntry
from inferbus.settings import BusSettings
from inferbus.testing import NatsServer
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import reconcile

TEMPLATE = Path(__file__).parents[2] / "deploy/nats/nats.conf"
MODELS = (ModelEntry(name="m", pool="m"), ModelEntry(name="n", pool="n"))


class NKeyServer:
    """`server` with `users`; every user made here has its settings in `settings`."""

    def __init__(self, folder: Path, template: Path = TEMPLATE) -> None:
        self.users = UsersFolder(folder / "bus", template)
        self.server = NatsServer(folder, self.users.config)
        self._logins: dict[str, tuple[str, str]] = {}

    def add(self, name: str, role: str, *, tenant: str = "", pools: tuple[str, ...] = ()) -> None:
        """Make a user. A server that runs has to be reloaded to know it."""
        user, seed = self.users.create(name, role, tenant=tenant, pools=tuple(Pool(pool=pool) for pool in pools))
        self._logins[name] = (user.login, seed)

    def settings(self, name: str) -> BusSettings:
        user, seed = self._logins[name]
        return BusSettings(url=self.server.url, user=user, nkey_seed=seed)

    def seed(self, name: str) -> str:
        return self._logins[name][1]

    async def connect(self, name: str) -> Bus:
        return await Bus.connect(self.settings(name), name=name)

    async def reconcile(self) -> None:
        bus = await self.connect("operator")
        try:
            await reconcile(bus, TopologySettings(), list(MODELS))
        finally:
            await bus.close()
