"""Print the OpenAPI document: `python -m inferbus_gateway.http.document > docs/openapi.json` (a contract test compares)."""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.contracts.models import ModelEntry
from inferbus.errors import DependencyDown
from inferbus.exchange import Exchange
from inferbus.settings import TelemetrySettings
from inferbus.telemetry.tracing import Tracing
from inferbus_gateway.http.app import build_app
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import document
from inferbus_gateway.observer import Observer
from inferbus_gateway.settings import GatewaySettings


class _Unconnected:
    """Stands where the bus would: the document needs routes, nothing behind them."""

    def authenticate(self, authorization: str | None) -> Identity:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    async def admit(self, identity: Identity, ask: Ask) -> Exchange:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    def resolve(self, name: str) -> ModelEntry | None:  # noqa: ARG002 - the port's signature
        raise DependencyDown("not connected")

    def all(self) -> list[ModelEntry]:
        raise DependencyDown("not connected")


def openapi_document() -> bytes:
    """Give the document of this code."""
    registry = CollectorRegistry()
    nothing = _Unconnected()
    deps = HttpDeps(
        settings=GatewaySettings(),
        authenticator=nothing,
        admitter=nothing,
        models=nothing,
        ready=lambda: "not connected",
        tracing=Tracing("gateway", TelemetrySettings()),
        observer=Observer(registry),
        registry=registry,
    )
    return document(build_app(deps).site)


if __name__ == "__main__":
    sys.stdout.buffer.write(openapi_document())
