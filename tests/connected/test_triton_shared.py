"""Several workers at one Triton that somebody else runs: who loads a model, and what becomes of all when it dies. The real one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.connected.proxy import Proxy
from tests.connected.triton_models import COUNT, COUNT_CONFIG, DOUBLE_CONFIG, SLOW, add_model
from tests.process_tree import descendants
from tests.triton_path import ENVIRONMENT, Answer, TritonPath, tensor

from inferbus.contracts.triton import CONFIG, LOAD, TritonAsk, TritonReply
from inferbus.errors import ResumeImpossible
from inferbus.kserve.paths import GENERATE_STREAM
from inferbus.process.triton import ask_triton
from inferbus.testing import eventually
from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions

pytestmark = pytest.mark.timeout(240)
WORKERS = ("triton-0", "triton-1")
_CLASS = "class TritonPythonModel:\n"
_NOTED = """class TritonPythonModel:
    def initialize(self, args):
        with open({file!r}, "a") as file:
            file.write("x")

"""


class Shared:
    """A Triton, which a test may kill and start again, and an address where it is found all the while."""

    def __init__(self, folder: Path, path: TritonPath, server: ManagedServer, proxy: Proxy) -> None:
        self._loads = folder
        self.path = path
        self.server = server
        self.proxy = proxy
        self.crashes = 0

    def loads(self, model: str) -> int:
        """Say how many times a model was loaded so far."""
        return len((self._loads / f"{model}.loads").read_text())

    async def start(self) -> None:
        address = await self.server.start()
        self.proxy.lead_to(int(address.rpartition(":")[2]))

    async def workers(self, **settings: object) -> None:
        for name in WORKERS:
            await self.path.triton(name, address=f"127.0.0.1:{self.proxy.port}", **settings)

    async def ask_many(self, count: int) -> list[asyncio.Task[Answer]]:
        """Ask the slow model so many times; some have an answer when it returns."""
        tasks = [asyncio.create_task(self.path.ask("slow", tensor("X", [[n, 0, 0, 1]]))) for n in range(count)]
        await asyncio.wait(tasks[:20], timeout=30)
        return tasks

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Start the server again should it crash: a stub that is killed while it holds the lock that they share takes its
        server along, sooner or later (`boost::interprocess::lock_exception`)."""

        async def keep() -> None:
            while True:
                await self.server.died()
                self.crashes += 1
                self.proxy.cut()
                await self.start()

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    def kill_stub(self, model: str) -> None:
        mine = descendants(os.getpid())
        os.kill(next(one.pid for one in mine if f"/{model}/1/model.py" in one.command and one.alive()), signal.SIGKILL)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Shared]:
    async with TritonPath(tmp_path, "slow", "count") as path, Proxy(0) as proxy:
        for name, source, config in (("slow", SLOW, DOUBLE_CONFIG), ("count", COUNT, COUNT_CONFIG)):
            noted = source.replace(_CLASS, _NOTED.format(file=str(tmp_path / f"{name}.loads")))
            add_model(path.repository, name, noted, config)
        options = ServerOptions(environment=ENVIRONMENT, repository=path.repository, state=tmp_path / "state")
        one = Shared(tmp_path, path, ManagedServer(options, os.environ), proxy)
        try:
            await one.start()
            yield one
        finally:
            await one.server.stop()


def is_right(answers: list[Answer]) -> bool:
    return [answer.values("Y") for answer in answers] == [[2 * n, 0, 0, 2] for n in range(len(answers))]


async def test_a_dead_model_is_loaded_once_whoever_finds_it(shared: Shared) -> None:
    await shared.workers(probe_every_s=0.5)
    assert shared.loads("slow") == 1
    async with shared.kept():
        for deaths in range(1, 4):
            tasks = await shared.ask_many(120)
            shared.kill_stub("slow")
            assert is_right(await asyncio.gather(*tasks))
            assert shared.loads("slow") == 1 + deaths or shared.crashes
    if shared.crashes:  # what had healed is counted by nobody any more
        return
    await eventually(lambda: [shared.path.figure(name, "inferbus_triton_heals") for name in WORKERS] == [3, 3])
    assert sum(shared.path.log(name).count("model_healed") for name in WORKERS) == 3


async def test_streams_of_every_worker_end_when_their_model_died(shared: Shared) -> None:
    path = shared.path
    await shared.workers(slots=1, probe_every_s=0.5)
    streams = [
        asyncio.create_task(path.ask("count", {"N": 3000}, verb=GENERATE_STREAM, streamed=True)) for _ in range(2)
    ]
    await eventually(lambda: all(path.beat(name).in_flight == 1 for name in WORKERS))
    async with shared.kept():
        shared.kill_stub("count")
        ends = await asyncio.wait_for(asyncio.gather(*streams, return_exceptions=True), 60)
    assert all(isinstance(end, ResumeImpossible) for end in ends), ends
    assert shared.loads("count") == 2 or shared.crashes
    assert (await path.ask("count", {"N": 2}, verb=GENERATE_STREAM, streamed=True)).status == 200


async def test_an_operators_load_is_carried_out_once(shared: Shared) -> None:
    await shared.workers()
    admin = await shared.path.nats.connect("admin")

    async def load(operation: str) -> list[TritonReply]:
        reply = await ask_triton(admin, "triton-0", TritonAsk(op=CONFIG, model="slow"))
        config = msgspec.json.decode(reply.data)
        config["parameters"] = {"changed": {"string_value": operation or "again"}}
        text = msgspec.json.encode(config).decode()
        ask = TritonAsk(op=LOAD, model="slow", config=text, operation=operation, timeout_s=60.0)
        return list(await asyncio.gather(*(ask_triton(admin, name, ask) for name in WORKERS)))

    try:
        for number, operation in enumerate(("first", "second"), start=1):
            assert [reply.status for reply in await load(operation)] == [200, 200]
            assert shared.loads("slow") == 1 + number
    finally:
        await admin.close()
    assert is_right(await asyncio.gather(*await shared.ask_many(20)))


async def test_a_triton_that_dies_and_comes_back_has_lost_nothing(shared: Shared) -> None:
    """Killed and started again by others, at the address it had; the workers have nothing to do with it."""
    await shared.workers()
    for _ in range(2):
        tasks = await shared.ask_many(150)
        os.kill(shared.server.pid, signal.SIGKILL)
        await shared.server.died()
        shared.proxy.cut()
        assert not all(task.done() for task in tasks)
        await shared.start()
        assert is_right(await asyncio.gather(*tasks))
    assert shared.loads("slow") == 3
    assert not any("model_healed" in shared.path.log(name) for name in WORKERS)
    assert all("engine_restarted" in shared.path.log(name) for name in WORKERS)
