from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.recording_sink import RecordingSink
from tests.unit.triton_worker.fakes import DOUBLE, FakeTriton, call_of

from inferbus.errors import Cancelled, DependencyDown, EngineDead
from inferbus.testing import eventually
from inferbus.worker.ports import Work
from inferbus_triton_worker.caller import Caller
from inferbus_triton_worker.catalog import Catalog
from inferbus_triton_worker.engine import TritonEngine
from inferbus_triton_worker.healing import Healer
from inferbus_triton_worker.ports import Busy, TimedOut
from inferbus_triton_worker.prober import Prober
from inferbus_triton_worker.settings import TritonSettings


class Home:
    """Where a server lives that ends when the test says so."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.starts = 0

    async def start(self) -> str:
        self.starts += 1
        self.ended.clear()
        return "somewhere"

    async def stop(self) -> None: ...

    async def died(self) -> str:
        await self.ended.wait()
        return "it was killed"


@pytest.fixture
def server() -> FakeTriton:
    return FakeTriton()


@pytest.fixture
def home() -> Home:
    return Home()


@pytest.fixture
async def engine(server: FakeTriton, home: Home) -> AsyncIterator[TritonEngine]:
    engine = TritonEngine(TritonSettings(start_timeout_s=0.3, slots=4, probe_every_s=60), home, lambda _: server)
    await engine.start()
    yield engine
    await engine.stop()


async def ask(engine: TritonEngine, key: str = "a", **fields: Any) -> RecordingSink:
    sink = RecordingSink()
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    work: dict[str, Any] = {
        "key": key, "request_id": key, "path": "/v2/models/double/infer", "body": msgspec.json.encode(body),
        "streamed": False, "created": 0, "left_s": 10.0,
    }  # fmt: skip
    await engine.submit(Work(**work | fields), sink)
    return sink


async def test_answers_and_says_how_much_it_did(engine: TritonEngine) -> None:
    finish = await (await ask(engine)).finish()
    assert (finish.status, finish.usage.prompt_tokens) == (200, 1)
    assert msgspec.json.decode(finish.data)["outputs"][0]["data"] == [1, 2]
    assert (engine.slots, engine.stats().generated_tokens, engine.stats().running) == (4, 1, 0)


async def test_a_name_inside_the_server_is_its_own_and_the_client_sees_the_directory_s(
    engine: TritonEngine, server: FakeTriton
) -> None:
    engine.server_name = {"pricing": "double"}.__getitem__
    finish = await (await ask(engine, model="pricing")).finish()
    assert (server.calls[0].model, msgspec.json.decode(finish.data)["model_name"]) == ("double", "pricing")


async def test_an_abort_stops_the_call(engine: TritonEngine, server: FakeTriton) -> None:
    server.gate = asyncio.Event()
    sink = await ask(engine)
    await eventually(lambda: len(server.calls) == 1)
    engine.abort("a")
    with pytest.raises(Cancelled):
        await sink.finish()
    await eventually(lambda: not engine._tasks)


async def test_a_server_that_is_killed_ends_what_runs_and_comes_back(
    engine: TritonEngine, server: FakeTriton, home: Home
) -> None:
    server.gate = asyncio.Event()
    sink = await ask(engine)
    await eventually(lambda: len(server.calls) == 1)
    home.ended.set()
    assert await asyncio.wait_for(engine.died(), 5) == "it was killed"
    with pytest.raises(EngineDead):
        await sink.finish()
    with pytest.raises(DependencyDown):  # it never had it
        await (await ask(engine, "b")).finish()
    await engine.stop()
    server.gate = None
    await engine.start()
    assert (await (await ask(engine, "c")).finish()).status == 200
    assert (home.starts, engine.stats().restarts) == (2, 1)


async def test_a_server_that_does_not_answer_is_dead_and_one_that_is_not_ready_is_no_engine(
    engine: TritonEngine, server: FakeTriton
) -> None:
    server.alive = False
    server.faults.append(Busy("connection refused"))
    with pytest.raises(EngineDead):
        await (await ask(engine)).finish()
    assert await asyncio.wait_for(engine.died(), 5) == "it does not answer"
    await engine.stop()
    with pytest.raises(EngineDead, match="not ready"):
        await engine.start()


async def test_a_server_that_is_gone_before_it_said_what_a_model_takes_never_ran_the_request(
    engine: TritonEngine, server: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(model: str, version: str) -> None:
        raise Busy("connection refused")

    monkeypatch.setattr(server, "signature", gone)
    server.alive = False
    sink = await ask(engine)
    with pytest.raises((DependencyDown, EngineDead)):
        await sink.finish()


async def test_a_model_that_answers_nobody_is_loaded_anew_and_one_that_is_busy_is_not(server: FakeTriton) -> None:
    caller = Caller(server, Healer(server, None), on_unreachable=lambda: None)
    prober = Prober(server, Catalog(server), caller, on_dead=lambda _: None, every_s=1, timeout_s=1)
    server.faults.append(TimedOut("Deadline Exceeded"))
    server.gate = asyncio.Event()
    probe = asyncio.create_task(prober.probe("double"))
    await eventually(lambda: len(server.calls) == 1)
    server.gate.set()
    await probe
    assert len(server.loads) == 1

    server.gate = asyncio.Event()
    server.faults.append(TimedOut("Deadline Exceeded"))
    probe = asyncio.create_task(prober.probe("double"))
    await eventually(lambda: len(server.calls) == 2)
    caller.answered["double"] = asyncio.get_running_loop().time() + 1  # somebody else was answered meanwhile
    server.gate.set()
    await probe
    assert len(server.loads) == 1
    assert call_of().model == DOUBLE.name
