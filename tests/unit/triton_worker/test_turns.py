"""Whose turn it is to load a model, and what a healer makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.unit.triton_worker.fakes import FakeTriton

from inferbus.contracts.turns import ModelTurn
from inferbus_triton_worker.healing import Healer
from inferbus_triton_worker.ports import Refused
from inferbus_triton_worker.turns import Turn, server_of


@pytest.mark.parametrize(
    ("record", "held"),
    [
        (ModelTurn(model="m"), False),
        (ModelTurn(model="m", holder="a", until=11.0), True),
        (ModelTurn(model="m", holder="a", until=9.0), False),  # it died
        (ModelTurn(model="m", holder="me", until=11.0), False),
    ],
)
def test_a_turn_is_held_by_somebody_else_until_it_ends(record: ModelTurn, held: bool) -> None:
    assert record.is_held("me", 10.0) is held


def test_a_server_has_one_name_and_one_on_this_machine_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_of("triton.example:8001") == server_of("Triton.example:8001") != server_of("triton.example:8002")
    local, remote = server_of("127.0.0.1:8001"), server_of("triton:8001")
    monkeypatch.setattr("socket.gethostname", lambda: "another-pod")
    assert server_of("127.0.0.1:8001") != local
    assert server_of("triton:8001") == remote


class OthersTurns:
    """Somebody else is at it first: `meanwhile` is what happens before this one's turn."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None, *, mine: bool = True) -> None:
        self.meanwhile = meanwhile
        self.given = Turn(mine=mine)

    @asynccontextmanager
    async def healing(self, _: str) -> AsyncIterator[Turn]:
        self.meanwhile()
        yield self.given

    @asynccontextmanager
    async def operation(self, _: str, __: str) -> AsyncIterator[Turn]:
        yield self.given


async def test_whoever_has_the_turn_loads_and_says_so() -> None:
    server, turns = FakeTriton(), OthersTurns()
    healer = Healer(server, None, turns)
    await healer.heal("double", healer.count)
    assert (len(server.loads), healer.count, turns.given.done) == (1, 1, True)


async def test_nobody_loads_what_another_one_healed() -> None:
    server, turns = FakeTriton(), OthersTurns(mine=False)
    healer = Healer(server, None, turns)
    await healer.heal("double", healer.count)
    assert (server.loads, turns.given.done) == ([], False)


async def test_nobody_loads_what_was_healed_while_it_waited() -> None:
    server, turns = FakeTriton(), OthersTurns()
    healer = Healer(server, None, turns)
    turns.meanwhile = lambda: healer.healed_elsewhere("double")
    await healer.heal("double", healer.count)
    assert (server.loads, healer.count) == ([], 1)
    turns.meanwhile = lambda: None
    await healer.heal("double", healer.count)  # it died again
    assert (len(server.loads), healer.count) == (1, 2)


async def test_what_cannot_be_loaded_is_not_said_to_be() -> None:
    class Refusing(FakeTriton):
        async def load(self, model: str, config: str = "") -> None:
            raise Refused("no such file", 400)

    turns = OthersTurns()
    with pytest.raises(Refused):
        await Healer(Refusing(), None, turns).heal("double", 0)
    assert not turns.given.done
