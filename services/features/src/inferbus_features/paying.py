"""Paying: who asks on the bus, what that one may, and what is left of its limits.

The gateway has done this for what comes through it. A producer on the bus comes by nobody: a push lies in its stream, and a
read goes straight to this service. So it is done here, by the key a message names, or by its tenant where it names none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from inferbus.admission.feature_rights import check_entitled
from inferbus.admission.identity import Identity
from inferbus.admission.keys import KeyRing
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.reservation import Reservation
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.tokens import Estimate
from inferbus.bus import Bus
from inferbus.errors import Forbidden
from inferbus.ledger.prices import PriceBook
from inferbus.process.presence import PresenceTable
from inferbus.routes import features_model
from inferbus.settings import from_env

_SHARERS = ("gateway", "batch", "vectors", "features")


class Paying:
    """Made by `open_paying`. `name` is a service's or a source's."""

    def __init__(self, keys: KeyRing, quota: Quota) -> None:
        self._keys = keys
        self._quota = quota

    def identity_of(self, tenant: str, key_id: str, name: str) -> Identity:
        """Say who asks, which may do so. The bus has authenticated the tenant, and the tenant says which of its keys it is.

        Raises:
            Unauthenticated: the key is gone, disabled or expired. Forbidden: it is another tenant's, or may not use this.
            DependencyDown: what is stored has not been read yet.
        """
        identity = self._keys.of_key(key_id) if key_id else self._keys.of_tenant(tenant)
        if identity.tenant != tenant:
            raise Forbidden("the key is of another tenant")
        check_entitled(identity, features_model(name))
        return identity

    def is_limited(self, identity: Identity, name: str) -> bool:
        """Whether any limit counts what is asked: without one nothing need be reserved.

        Raises:
            DependencyDown: the limits are not known yet.
        """
        return self._quota.is_limited(identity, features_model(name))

    async def reserve(self, identity: Identity, name: str, rows: int) -> Reservation:
        """Take rows from every limit, or nothing.

        Raises:
            RateLimited: a limit is used up. DependencyDown: the counters cannot be reached.
        """
        return await self._quota.reserve(identity, features_model(name), lambda: Estimate(rows, 0))

    async def look(self, identity: Identity, name: str, rows: int) -> None:
        """Raises as `reserve`, and takes nothing."""
        (await self.reserve(identity, name, rows)).refund()


@asynccontextmanager
async def open_paying(bus: Bus, prices: PriceBook, me: str) -> AsyncIterator[Paying]:
    """Follow keys and limits until the block ends; entered when all of it is loaded. `me` is this process.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    presence, keys = PresenceTable(bus, bus.region), KeyRing(bus, b"")
    quota = Quota(
        bus, from_env(QuotaSettings, "quota"), gateways=lambda: max(1, sum(presence.processes(role) for role in _SHARERS)),
        price_of=prices.price_of, holder=me,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        for learning in (presence, keys, quota):
            await learning.start()
            stack.push_async_callback(learning.stop)
        await keys.loaded()
        await quota.loaded()
        yield Paying(keys, quota)
