"""Fixtures of the connected tests: a real nats-server with the deployed configuration, and connections to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.testing import NatsServer

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
MODEL = ModelEntry(name="m", pool="m")

Connect = Callable[[str], Awaitable[Bus]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: what the last of several workers is left with is short."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server of its own for every test, with the streams and consumers of one model `m`."""
    async with NatsServer(tmp_path, CONFIG) as server:
        await server.reconcile(MODEL)
        yield server


@pytest.fixture
async def connect(server: NatsServer) -> AsyncIterator[Connect]:
    """Connect as a role; closed after the test."""
    made: list[Bus] = []

    async def connect(role: str) -> Bus:
        made.append(await server.connect(role, name=f"{role}-{len(made)}"))
        return made[-1]

    yield connect
    await asyncio.gather(*(bus.close() for bus in made))


async def barrier(bus: Bus) -> None:
    """Wait until the server has dealt with everything sent so far. (nats-py's flush pings ahead of what it flushes.)"""
    await bus.request("$JS.API.INFO")
