"""The managed Triton server: the real one, from .venv-triton."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as grpc
from tests.connected.triton_models import BROKEN, HANGS, add_model
from tritonclient.utils import InferenceServerException

from inferbus.testing import eventually
from inferbus_triton_worker.adapters import leftovers
from inferbus_triton_worker.adapters.installation import ServerMissing
from inferbus_triton_worker.adapters.server import ManagedServer, ServerFailed, ServerOptions

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-triton"
pytestmark = pytest.mark.timeout(180)


def options(tmp_path: Path, **changes: object) -> ServerOptions:
    return ServerOptions(
        **{"environment": ENVIRONMENT, "repository": tmp_path / "models", "state": tmp_path / "state"} | changes
    )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ManagedServer]:
    add_model(tmp_path / "models", "double")
    one = ManagedServer(options(tmp_path), dict(os.environ) | {"INFERBUS_BUS_PASSWORD": "secret"})
    try:
        yield one
    finally:
        await one.stop()


async def double(address: str) -> list[float]:
    tensor = grpc.InferInput("X", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
    async with grpc.InferenceServerClient(address) as client:
        answer = await client.infer("double", [tensor], client_timeout=30)
    return answer.as_numpy("Y").ravel().tolist()


def regions(state: Path) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{leftovers.region_prefix(state)}*"))


async def test_serves_and_leaves_nothing(server: ManagedServer, tmp_path: Path) -> None:
    address = await server.start()
    assert await double(address) == [2, 4, 6, 8]
    assert regions(tmp_path / "state")
    pid = server.pid
    await server.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert regions(tmp_path / "state") == []
    assert server.pid == 0


async def test_models_do_not_hear_secrets(server: ManagedServer) -> None:
    await server.start()
    assert b"INFERBUS_BUS_PASSWORD" not in Path(f"/proc/{server.pid}/environ").read_bytes()


async def test_dies_and_comes_back(server: ManagedServer, tmp_path: Path) -> None:
    await server.start()
    death = asyncio.create_task(server.died())
    os.kill(server.pid, signal.SIGKILL)
    assert await asyncio.wait_for(death, 30) == "killed by SIGKILL"
    assert regions(tmp_path / "state") == []
    assert await double(await server.start()) == [2, 4, 6, 8]


async def test_a_broken_model_leaves_the_others_alone(server: ManagedServer, tmp_path: Path) -> None:
    add_model(tmp_path / "models", "broken", BROKEN)
    address = await server.start()
    assert await double(address) == [2, 4, 6, 8]
    async with grpc.InferenceServerClient(address) as client:
        assert not await client.is_model_ready("broken")
        with pytest.raises(InferenceServerException, match="a_module_that_nobody_has"):
            await client.load_model("broken")


async def test_a_start_that_hangs_ends_at_its_deadline(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "hangs", HANGS)
    one = ManagedServer(options(tmp_path, start_within_s=6.0), os.environ)
    began = time.monotonic()
    with pytest.raises(ServerFailed, match="did not answer within 6 s"):
        await one.start()
    assert time.monotonic() - began < 60
    assert one.pid == 0
    assert regions(tmp_path / "state") == []
    assert leftovers.kill_processes(leftovers.region_prefix(tmp_path / "state")) == []


async def test_says_what_is_missing(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "double")
    with pytest.raises(ServerMissing, match="is no environment"):
        await ManagedServer(options(tmp_path, environment=tmp_path / "nothing"), os.environ).start()
    with pytest.raises(ServerMissing, match="nvidia-pytriton is missing"):
        await ManagedServer(options(tmp_path, environment=ROOT / ".venv"), os.environ).start()


OWNER = """
import asyncio, os, sys
from pathlib import Path
from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions

async def main():
    folder = Path(sys.argv[1])
    server = ManagedServer(ServerOptions(environment=Path(sys.argv[2]), repository=folder / "models", state=folder / "state"), os.environ)
    await server.start()
    print(server.pid, flush=True)
    await server.died()

asyncio.run(main())
"""


async def test_dies_with_its_owner_and_the_next_one_cleans_up(server: ManagedServer, tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), str(ENVIRONMENT), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    try:
        while not (line := (await owner.stdout.readline()).strip()).isdigit():
            assert line, "it ended"
    finally:
        owner.kill()
        await owner.wait()
    pid = int(line)
    await eventually(lambda: not Path(f"/proc/{pid}").exists(), within_s=20)
    assert await double(await server.start()) == [2, 4, 6, 8]
    await server.stop()
    assert regions(tmp_path / "state") == []
