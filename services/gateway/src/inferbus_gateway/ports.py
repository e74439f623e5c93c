"""What the HTTP door needs from the rest of the gateway. The composition root connects them; unit tests use fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Exchange
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import Presence
from inferbus.contracts.usage import Total
from inferbus.durable.event_ids import EventId
from inferbus.errors import InferbusError

if TYPE_CHECKING:
    from inferbus.durable.reader import DurableReader
    from inferbus_gateway.durable import Opened, RequestStatus

Ready = Callable[[], str | None]
"""Gives None while this process can serve, else the reason why not."""


class Authenticator(Protocol):
    """Says who asks."""

    def authenticate(self, authorization: str | None) -> Identity:
        """Check an `Authorization` header.

        Raises:
            Unauthenticated: missing, unknown, revoked or wrong.
        """
        ...


class Admitter(Protocol):
    """Takes a request in: entitlements, route, durable accept."""

    async def admit(self, identity: Identity, ask: Ask) -> Exchange:
        """Accept the request and open its exchange; the caller closes it.

        Raises:
            InferbusError: it was not accepted (NotFound, Unsupported, Forbidden, TooLarge, TenantOverloaded,
                Overloaded, DependencyDown).
        """
        ...

    async def begin(self, identity: Identity, ask: Ask) -> Exchange:
        """Do the same without waiting until it is accepted; if it is not, the exchange ends in why, `refused`."""
        ...


class TotalsReader(Protocol):
    """Reads what was used."""

    async def rows(self, tenant: str) -> list[Total]:
        """Give every row of a tenant's.

        Raises:
            DependencyDown: the bus does not answer.
        """
        ...


class ModelLister(Protocol):
    """The models this platform knows."""

    def resolve(self, name: str) -> ModelEntry | None: ...

    def all(self) -> list[ModelEntry]: ...


class Place(msgspec.Struct, frozen=True):
    """Where a request stands in its queue, estimated: 1 is next. `expected_wait_s` is None while nothing of its pool has
    ended."""

    position: int
    expected_wait_s: float | None


class QueuePlaces(Protocol):
    """Knows about where waiting requests stand."""

    def place_of(self, exchange: Exchange) -> Place: ...


class Servers(Protocol):
    """What model servers behind workers say of their models (`inferbus_gateway.triton_servers`)."""

    def workers(self, pool: str) -> list[Presence]:
        """Give the workers of a pool that are ready."""
        ...

    async def say(self, entry: ModelEntry, op: str, version: str = "") -> bytes:
        """Give what a server says of a model (contracts.triton), as JSON.

        Raises:
            NotFound, InvalidRequest: it knows no such model or version. DependencyDown: no worker says anything.
        """
        ...


class Canceller(Protocol):
    """Cancels requests by their id."""

    async def cancel(self, tenant: str, request_id: str) -> str:
        """Cancel a request; give what it is then.

        Raises:
            NotFound: no such request of this tenant. DependencyDown: nobody can tell now.
        """
        ...


class DurableStore(Protocol):
    """Requests whose answers are kept (`inferbus_gateway.durable`)."""

    async def open(self, identity: Identity, ask: Ask) -> Opened:
        """Begin a request, or join the one that has its idempotency key or its id."""
        ...

    async def refuse(self, tenant: str, request_id: str, error: InferbusError) -> None:
        """Keep why a request was not accepted."""
        ...

    async def read(self, tenant: str, request_id: str, after: EventId | None = None) -> DurableReader:
        """Begin to read an answer; the caller closes the reader."""
        ...

    async def status(self, tenant: str, request_id: str) -> RequestStatus:
        """Say how a request is doing.

        Raises:
            NotFound: there is none of this id and tenant.
        """
        ...
