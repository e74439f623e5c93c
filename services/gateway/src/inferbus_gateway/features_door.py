"""FeaturesDoor: what the HTTP door needs for features. It only speaks the bus to the service; entitlements and limits are
as of every other request, with a service under the name `features:<service>`."""

from __future__ import annotations

import msgspec

from inferbus import routes
from inferbus.admission.feature_book import stored_catalogue
from inferbus.admission.feature_rights import check_entitled, may_use
from inferbus.admission.identity import Identity
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.reservation import Reservation
from inferbus.admission.quota.tokens import Estimate
from inferbus.bus import Bus
from inferbus.codec import from_json
from inferbus.contracts.features import Catalogue, PushAnswer, PushMessage, ServiceRecord
from inferbus.contracts.step import Usage
from inferbus.errors import InvalidRequest, NotFound
from inferbus.feature_reads import DEADLINE_S, ReadAsker, pass_on
from inferbus.feature_writes import push_rows
from inferbus.routes import token_safe


class Read(msgspec.Struct, frozen=True):
    """An answer's body, and the lines of the head that say how limits stand."""

    body: bytes
    rows: int
    reservation: Reservation


class FeaturesDoor:
    """Reads and pushes for whoever has been authenticated."""

    def __init__(self, bus: Bus, quota: Quota) -> None:
        self._bus = bus
        self._quota = quota

    async def read(
        self,
        identity: Identity,
        service: str,
        body: bytes,
        *,
        deadline_s: float | None,
        request_id: str,
        traceparent: str,
    ) -> Read:
        """Have rows read.

        Raises:
            Forbidden, RateLimited: the key may not, or not now. InferbusError: what the service says.
        """
        if token_safe(service) != service:
            raise NotFound(f"there is no feature service `{service[:80]}`", param="service")
        name = routes.features_model(service)
        check_entitled(identity, name)
        # No row without a value of its own, or a comma: an upper bound, which is settled by what was read.
        reservation = await self._quota.reserve(identity, name, lambda: Estimate(body.count(b",") + 1, 0))
        asker = ReadAsker(
            tenant=identity.tenant, key_id=identity.key_id, team=identity.team, user=identity.user,
            request_id=request_id, traceparent=traceparent, deadline_s=deadline_s or DEADLINE_S,
        )  # fmt: skip
        try:
            answer, rows = await pass_on(self._bus, asker, service, body)
        except BaseException:
            reservation.refund()
            raise
        reservation.settle(Usage(rows))
        return Read(answer, rows, reservation)

    async def push(self, identity: Identity, source: str, body: bytes, *, name: str) -> PushAnswer:
        """Store rows to be written; those that are wrong are told. `name`: two of the same are one, within two minutes.

        Raises:
            Forbidden, RateLimited: the key may not, or not now. InvalidRequest: the body is no push. NotFound: there is no
            such source. DependencyDown, Overloaded: nothing is stored.
        """
        if token_safe(source) != source:
            raise NotFound(f"there is no push source `{source[:80]}`", param="source")
        check_entitled(identity, routes.features_model(source))
        message = from_json(body, PushMessage, what="the rows")
        if not message.rows:
            raise InvalidRequest("rows is empty", param="rows")
        named = msgspec.structs.replace(message, id=name or message.id)
        return await push_rows(self._bus, identity.tenant, source, named, key_id=identity.key_id)

    async def services(self, identity: Identity) -> list[ServiceRecord]:
        """List the services this key may read."""
        catalogue = await stored_catalogue(self._bus) or Catalogue(project="")
        return [
            service
            for service in catalogue.services
            if (not service.tenants or identity.tenant in service.tenants)
            and may_use(identity, routes.features_model(service.name))
        ]
