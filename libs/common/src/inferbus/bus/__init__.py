"""The bus: one connection to NATS, and what every service does over it."""

from inferbus.bus.bus import Bus

__all__ = ["Bus"]
