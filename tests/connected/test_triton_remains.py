"""Whoever is killed, nothing of a managed Triton is left: no process, no region of shared memory. The real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.connected.triton_models import HANGS, add_model
from tests.process_tree import Process, descendants

from inferbus.testing import eventually
from inferbus_triton_worker.adapters import leftovers
from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions

ENVIRONMENT = Path(__file__).parents[2] / ".venv-triton"
WITHIN_S = 30.0
pytestmark = pytest.mark.timeout(240)

OWNER = """
import asyncio, os, sys
from pathlib import Path
from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions

async def main():
    folder = Path(sys.argv[1])
    server = ManagedServer(ServerOptions(environment=Path(sys.argv[2]), repository=folder / "models", state=folder / "state"), os.environ)
    await server.start()
    print("started", flush=True)
    print(await server.died(), flush=True)

asyncio.run(main())
"""


class Owner:
    """A process that has a Triton of its own."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.prefix = leftovers.region_prefix(folder / "state")

    async def line(self, within_s: float = 120.0) -> str:
        """Read what it says, past its log lines."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            while True:
                line = (await self.process.stdout.readline()).decode()
                assert line, "it ended"
                if line.startswith(("started", "killed", "exit")):
                    return line.strip()

    def everybody(self) -> list[Process]:
        """Give what descends from it."""
        return [one for one in descendants(self.process.pid) if one.pid != self.process.pid]

    def one(self, word: str) -> Process:
        return next(one for one in self.everybody() if word in one.command and one.alive())

    def regions(self) -> list[Path]:
        return list(leftovers.MEMORY.glob(f"{self.prefix}*"))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def nothing_is_left(self, of: list[Process]) -> None:
        await eventually(lambda: not any(one.alive() for one in of), within_s=WITHIN_S)
        await eventually(lambda: not self.regions(), within_s=WITHIN_S)


@contextlib.asynccontextmanager
async def owning(folder: Path, *, wait: bool = True) -> AsyncIterator[Owner]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(folder), str(ENVIRONMENT), stdout=asyncio.subprocess.PIPE
    )
    owner = Owner(process, folder)
    try:
        if wait:
            assert await owner.line() == "started"
        yield owner
    finally:
        owner.kill()
        await process.wait()
        leftovers.clear(owner.prefix)  # of a test that failed


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    add_model(tmp_path / "models", "double")
    async with owning(tmp_path) as owner:
        yield owner


KEEPER, SERVER, STUB = "adapters.keeper", "bin/tritonserver", "triton_python_backend_stub"


async def test_nothing_is_left_of_a_killed_owner(owner: Owner) -> None:
    everybody = owner.everybody()
    assert [len([one for one in everybody if word in one.command]) for word in (KEEPER, SERVER, STUB)] == [1, 1, 1]
    assert len(owner.regions()) == 2  # the model's, and the lock
    owner.kill()
    await owner.nothing_is_left(everybody)


async def test_nothing_is_left_where_a_model_is_stuck(owner: Owner) -> None:
    """A stub looks for its server between two requests: one that hangs never does."""
    everybody = owner.everybody()
    os.kill(owner.one(STUB).pid, signal.SIGSTOP)
    owner.kill()
    await owner.nothing_is_left(everybody)


async def test_nothing_is_left_of_a_killed_server_and_its_owner_hears(owner: Owner) -> None:
    everybody = owner.everybody()
    os.kill(owner.one(STUB).pid, signal.SIGSTOP)
    os.kill(owner.one(SERVER).pid, signal.SIGKILL)
    assert await owner.line() == "killed by SIGKILL"
    assert not any(one.alive() for one in everybody)
    assert owner.regions() == []


async def test_nothing_is_left_of_a_killed_keeper_and_its_owner_hears(owner: Owner) -> None:
    everybody = owner.everybody()
    os.kill(owner.one(STUB).pid, signal.SIGSTOP)
    os.kill(owner.one(KEEPER).pid, signal.SIGKILL)
    assert await owner.line() == "killed by SIGKILL"
    await owner.nothing_is_left(everybody)


async def test_what_is_left_of_keeper_and_owner_together_the_next_server_of_anybody_removes(
    owner: Owner, tmp_path: Path
) -> None:
    everybody = owner.everybody()
    stub, keeper = owner.one(STUB), owner.one(KEEPER)
    os.kill(stub.pid, signal.SIGSTOP)
    os.kill(owner.process.pid, signal.SIGSTOP)  # dies first, but nobody can tell
    os.kill(keeper.pid, signal.SIGKILL)
    owner.kill()
    await eventually(lambda: not any(one.alive() for one in everybody if one != stub), within_s=WITHIN_S)
    assert stub.alive()
    assert owner.regions()
    other = ManagedServer(
        ServerOptions(environment=ENVIRONMENT, repository=tmp_path / "models", state=tmp_path / "other"), os.environ
    )
    try:
        await other.start()
        await owner.nothing_is_left(everybody)
    finally:
        await other.stop()


async def test_nothing_is_left_of_an_owner_killed_while_it_starts(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "hangs", HANGS)
    async with owning(tmp_path, wait=False) as owner:
        await eventually(lambda: any(STUB in one.command for one in owner.everybody()), within_s=60)
        everybody = owner.everybody()
        owner.kill()
        await owner.nothing_is_left(everybody)


async def test_a_server_waits_until_the_one_before_it_is_cleared(owner: Owner, tmp_path: Path) -> None:
    """The same state folder, at once after the kill: what the old keeper removes is not the new server's."""
    everybody = owner.everybody()
    owner.kill()
    async with owning(tmp_path) as second:
        assert not any(one.alive() for one in everybody)
        assert len(second.regions()) == 2
        assert second.one(STUB).alive()
        everybody = second.everybody()
        second.kill()
        await second.nothing_is_left(everybody)
