"""Tests on real Feast, run by its own environment: `.venv-features/bin/python -m pytest tests/features`. Those marked `redis` start a
redis-server of their own (`make test-services`)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.features import CATALOGUE_KEY, REGISTRY_KEY, Catalogue
from inferbus.testing import NatsServer

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy/nats/nats.conf"
REPOSITORY = Path(__file__).parent / "repository"
_WAIT_S = 10.0

Applied = tuple[bytes, Catalogue]


def pytest_configure(config: pytest.Config) -> None:
    # Feast, pandas and what they import warn about themselves and each other.
    for kind in ("Deprecation", "PendingDeprecation", "Future", "User", "Runtime", "Resource"):
        config.addinivalue_line("filterwarnings", f"ignore::{kind}Warning")


class Redis:
    """One redis-server on a free port, without files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        binary = shutil.which("redis-server")
        assert binary is not None, "redis-server is missing: make deps-services"
        arguments = ["--port", str(self.port), "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log)
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                assert time.monotonic() < until, (self._folder / "redis.log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def compiled() -> Applied:
    """What the repository beside this file makes."""
    from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds

    return FeastRepositories().compile_repository(str(REPOSITORY))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "bus", CONFIG) as server:
        await server.reconcile()
        yield server


@pytest.fixture
async def connect(server: NatsServer) -> AsyncIterator[Callable[..., object]]:
    made: list[Bus] = []

    async def connect(role: str) -> Bus:
        made.append(await server.connect(role, name=f"{role}-{len(made)}"))
        return made[-1]

    yield connect
    for bus in made:
        await bus.close()


async def publish_definitions(bus: Bus, applied: Applied) -> None:
    """Put what was compiled onto the bus, as `inferbus features apply` does."""
    registry, catalogue = applied
    await bus.kv_put(routes.KV_FEATURES, REGISTRY_KEY, registry)
    await bus.kv_put(routes.KV_FEATURES, CATALOGUE_KEY, to_json(catalogue))
