"""Turns at a model's loading, between workers on a real bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from tests.connected.conftest import Connect

from inferbus import routes
from inferbus.bus.stored import last_stored
from inferbus.testing import NatsServer, eventually
from inferbus_triton_worker import turns as module
from inferbus_triton_worker.turns import SharedTurns

SERVER = "0123456789abcdef"
Join = Callable[[str], Awaitable[tuple[SharedTurns, list[str]]]]


@pytest.fixture
async def join(server: NatsServer, connect: Connect) -> AsyncIterator[Join]:
    """Join as a worker; gives its turns, and what it hears was healed."""
    async with AsyncExitStack() as stack:

        async def join(holder: str) -> tuple[SharedTurns, list[str]]:
            heard: list[str] = []
            made = SharedTurns(await connect("worker"), SERVER, holder, heard.append)
            await made.start()
            stack.push_async_callback(made.stop)
            await asyncio.wait_for(made.loaded(), 10)
            return made, heard

        yield join


async def test_one_at_a_time_and_the_others_hear(join: Join) -> None:
    workers = [await join(f"triton-{n}-1") for n in range(4)]
    running, most, loads = 0, 0, 0

    async def heal(turns: SharedTurns) -> None:
        nonlocal running, most, loads
        async with turns.healing("team/m") as turn:
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1
            if turn.mine:
                loads += 1
                turn.done = True

    await asyncio.gather(*(heal(turns) for turns, _ in workers))
    assert most == 1
    assert loads >= 1  # whether one that heard by its watch while it waited loads again, its healer decides
    await eventually(lambda: all(len(heard) >= loads - 1 for _, heard in workers))


async def test_a_turn_that_failed_is_the_next_ones(join: Join) -> None:
    (first, _), (second, heard) = await join("a"), await join("b")
    with pytest.raises(RuntimeError):
        async with first.healing("m"):
            raise RuntimeError
    async with second.healing("m") as turn:
        assert turn.mine
    assert heard == []


async def test_an_operation_is_carried_out_once_and_each_operation(join: Join) -> None:
    workers = [(await join(name))[0] for name in "abc"]
    done: list[tuple[str, str]] = []

    async def operate(turns: SharedTurns, name: str) -> None:
        async with turns.operation("m", name) as turn:
            if turn.mine:
                done.append(("m", name))
                turn.done = True

    for name in ("first", "second"):
        await asyncio.gather(*(operate(turns, name) for turns in workers))
    assert done == [("m", "first"), ("m", "second")]
    await asyncio.gather(*(operate(turns, "") for turns in workers))  # of one that does not say
    assert len(done) == 5


async def test_a_holder_that_died_lets_go_and_one_that_lives_does_not(
    join: Join, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOLD_S", 2.0)
    (first, _), (second, _) = await join("a"), await join("b")
    order: list[str] = []

    async def wait() -> None:
        async with second.healing("m"):
            order.append("second")

    async with first.healing("m"):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(5.0)  # more than twice as long as it is held without being renewed
        order.append("first")
    await asyncio.wait_for(waiting, 30)
    assert order == ["first", "second"]

    class Killed(SharedTurns):
        async def _renew(self, model: str) -> None: ...

        async def _let_go(self, left: object) -> None: ...

    dead = Killed(await connect("worker"), SERVER, "c", lambda _: None)
    async with dead.healing("m"):
        pass
    operator = await connect("operator")
    subject = routes.kv_subject(routes.KV_TURNS, routes.turn_key(SERVER, "m"))
    stored = await last_stored(operator, routes.kv_stream(routes.KV_TURNS), subject)
    assert stored is not None
    assert b'"holder":"c"' in stored.data
    await asyncio.wait_for(wait(), 30)


async def test_without_the_bus_a_worker_does_what_it_has_to(join: Join, server: NatsServer) -> None:
    (turns, _) = await join("a")
    await server.kill()
    async with turns.healing("m") as turn:
        assert turn.mine
