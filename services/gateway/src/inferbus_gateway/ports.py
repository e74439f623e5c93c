"""What the HTTP door needs from the rest of the gateway. The composition root connects them; unit tests use fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.contracts.models import ModelEntry
from inferbus.exchange import Exchange

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


class ModelLister(Protocol):
    """The models this platform knows."""

    def resolve(self, name: str) -> ModelEntry | None: ...

    def all(self) -> list[ModelEntry]: ...
