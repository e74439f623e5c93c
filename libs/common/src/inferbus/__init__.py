"""Inferbus: an event-driven ML inference platform over NATS JetStream."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferbus.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> object:
    """Import the SDK only when it is asked for: services import parts of this package, not all of it."""
    if name == "Client":
        from inferbus.client import Client  # noqa: PLC0415 - the point of this function

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
