from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.triton_worker.fakes import FakeTriton, call_of

from inferbus.errors import EngineDead, Overloaded
from inferbus_triton_worker.caller import Caller
from inferbus_triton_worker.healing import Healer
from inferbus_triton_worker.ports import Busy, ModelDead, Refused

DEAD = "Stub process 'double_0_0' is not healthy."


def made(server: FakeTriton, repository: Path | None = None) -> tuple[Caller, list[str]]:
    gone: list[str] = []
    return Caller(server, Healer(server, repository), on_unreachable=lambda: gone.append("gone")), gone


async def test_a_dead_model_is_asked_again_then_loaded_anew() -> None:
    server = FakeTriton()
    caller, _ = made(server)
    server.faults.append(ModelDead(DEAD, "double"))
    await caller.infer(call_of(), 10.0)
    assert server.loads == []  # somebody else had healed it
    server.faults.extend([ModelDead(DEAD, "double")] * 2)
    await caller.infer(call_of(), 10.0)
    ((model, config),) = server.loads
    assert (model, "inferbus_healed" in msgspec.json.decode(config)["parameters"]) == ("double", True)


async def test_a_model_with_files_here_is_touched_and_its_configuration_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "double/1/model.py"
    file.parent.mkdir(parents=True)
    file.touch()
    before = file.stat().st_mtime_ns
    server = FakeTriton()
    caller, _ = made(server, tmp_path)
    server.faults.extend([ModelDead(DEAD, "double")] * 2)
    await caller.infer(call_of(), 10.0)
    assert (server.loads, file.stat().st_mtime_ns > before) == ([("double", "")], True)


async def test_a_request_under_which_the_model_dies_again_is_a_death_of_the_engine() -> None:
    server = FakeTriton()
    caller, _ = made(server)
    server.faults.extend([ModelDead(DEAD, "double")] * 3)
    with pytest.raises(EngineDead):
        await caller.infer(call_of(), 10.0)
    assert len(server.loads) == 1


async def test_a_server_that_is_busy_and_one_that_is_gone_are_told_apart() -> None:
    server = FakeTriton()
    caller, gone = made(server)
    server.faults.extend([Busy("full"), Busy("refused")])
    with pytest.raises(Overloaded):
        await caller.infer(call_of(), 10.0)
    assert gone == []
    server.alive = False
    with pytest.raises(EngineDead):
        await caller.infer(call_of(), 10.0)
    assert gone == ["gone"]


async def test_what_the_server_refuses_is_not_asked_again() -> None:
    server = FakeTriton()
    caller, _ = made(server)
    server.faults.append(Refused("no", 400))
    with pytest.raises(Refused):
        await caller.infer(call_of(), 10.0)
    assert len(server.calls) == 1


async def test_the_dead_are_healed_once_for_all_who_found_them_dead() -> None:
    server = FakeTriton()
    caller, _ = made(server)
    seen = caller.heals
    await caller.heal("double", seen)
    await caller.heal("double", seen)
    assert len(server.loads) == 1
