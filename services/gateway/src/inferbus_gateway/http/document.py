"""Print the OpenAPI document: `python -m inferbus_gateway.http.document > docs/openapi.json` (a contract test compares)."""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Exchange
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import Presence
from inferbus.contracts.usage import Total
from inferbus.durable.event_ids import EventId
from inferbus.durable.reader import DurableReader
from inferbus.errors import DependencyDown, InferbusError
from inferbus.settings import TelemetrySettings
from inferbus.telemetry.tracing import Tracing
from inferbus_gateway.durable import Opened, RequestStatus
from inferbus_gateway.http.app import build_app
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import document
from inferbus_gateway.observer import Observer
from inferbus_gateway.ports import Place
from inferbus_gateway.settings import GatewaySettings


class Unconnected:
    """Stands where the bus would: the document needs routes, nothing behind them."""

    def authenticate(self, authorization: str | None) -> Identity:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def admit(self, identity: Identity, ask: Ask) -> Exchange:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    begin = admit

    async def open(self, identity: Identity, ask: Ask) -> Opened:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def cancel(self, tenant: str, request_id: str) -> str:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    def place_of(self, exchange: Exchange) -> Place:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def refuse(self, tenant: str, request_id: str, error: InferbusError) -> None:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def read(self, tenant: str, request_id: str, after: EventId | None = None) -> DurableReader:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def status(self, tenant: str, request_id: str) -> RequestStatus:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    def workers(self, pool: str) -> list[Presence]:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def say(self, entry: ModelEntry, op: str, version: str = "") -> bytes:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def rows(self, tenant: str) -> list[Total]:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    def resolve(self, name: str) -> ModelEntry | None:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    def all(self) -> list[ModelEntry]:
        raise DependencyDown("not connected")


def openapi_document() -> bytes:
    """Give the document of this code."""
    registry = CollectorRegistry()
    nothing = Unconnected()
    deps = HttpDeps(
        settings=GatewaySettings(),
        authenticator=nothing,
        admitter=nothing,
        models=nothing,
        ready=lambda: "not connected",
        tracing=Tracing("gateway", TelemetrySettings()),
        observer=Observer(registry),
        registry=registry,
        durable=nothing,
        places=nothing,
        canceller=nothing,
        totals=nothing,
        servers=nothing,
    )
    return document(build_app(deps).site)


if __name__ == "__main__":
    sys.stdout.buffer.write(openapi_document())
