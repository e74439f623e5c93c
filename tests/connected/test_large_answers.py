"""Answers larger than a message of the bus: through the payload stream, whole, or not at all and said so."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.connected.rig import Call, Rig, read
from tests.connected.test_usage_events import events

from inferbus.answers.attempts import MAX_BODY_BYTES
from inferbus.answers.by_ticket import MAX_ANSWER_BYTES
from inferbus.answers.exchange import Ended
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.step import Usage
from inferbus.errors import DependencyDown, TooLarge
from inferbus.models import apply_model
from inferbus.testing import NatsServer, eventually


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, ModelEntry(name="m", pool="m"))
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


@pytest.mark.parametrize("size", [MAX_BODY_BYTES, MAX_BODY_BYTES + 1, 20_000_000])
async def test_a_large_answer_arrives_whole(rig: Rig, size: int) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    data = os.urandom(size)
    worker.engine.answer = lambda call: call.sink.finished(200, Usage(5, 0), data, "application/octet-stream")
    exchange = await gateway.admit(streamed=False)
    end = await exchange.next(10)
    while not isinstance(end, Ended):
        end = await exchange.next(10)
    exchange.close()
    assert end.data == data
    assert (end.status, end.usage, end.content_type) == (200, Usage(5, 0), "application/octet-stream")
    await eventually(rig.queue_is_empty)


async def test_small_answers_pass_a_large_one(rig: Rig) -> None:
    """The large one is stored and fetched beside the frames."""
    gateway, worker = await rig.gateway(), await rig.worker()
    data = os.urandom(20_000_000)
    large = await gateway.admit(streamed=False)
    await eventually(lambda: len(worker.engine.calls) == 1)
    small = await gateway.admit(streamed=False)
    await eventually(lambda: len(worker.engine.calls) == 2)
    worker.engine.calls[0].sink.finished(200, Usage(), data, "application/octet-stream")
    worker.engine.calls[1].end(b"small")
    assert await read(small) == b"small"
    assert await read(large) == data


async def test_an_answer_nobody_can_store_is_an_error_not_silence(
    rig: Rig, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> str:
        raise DependencyDown("the payload stream is full")

    monkeypatch.setattr("inferbus.answers.attempts.store_answer", away)
    gateway, worker = await rig.gateway(), await rig.worker()

    def answer(call: Call) -> None:
        call.sink.finished(200, Usage(), bytes(MAX_BODY_BYTES + 1), "application/json")

    worker.engine.answer = answer
    with pytest.raises(DependencyDown, match="could not be stored: the payload stream is full"):
        await read(await gateway.admit(streamed=False))
    await eventually(rig.queue_is_empty)
    assert await _outcomes(server) == ["dependency_down"]


async def test_a_large_answer_is_billed_as_finished_once_it_is_stored(rig: Rig, server: NatsServer) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    data = os.urandom(MAX_BODY_BYTES + 1)
    worker.engine.answer = lambda call: call.sink.finished(200, Usage(5, 0), data, "application/octet-stream")
    assert await read(await gateway.admit(streamed=False)) == data
    await eventually(rig.queue_is_empty)
    assert await _outcomes(server) == ["finished"]


async def test_an_answer_that_is_too_large_is_not_billed_as_finished(rig: Rig, server: NatsServer) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    data = bytes(MAX_ANSWER_BYTES + 1)
    worker.engine.answer = lambda call: call.sink.finished(200, Usage(5, 0), data, "application/octet-stream")
    with pytest.raises(TooLarge):
        await read(await gateway.admit(streamed=False))
    await eventually(rig.queue_is_empty)
    assert await _outcomes(server) == ["too_large"]


async def _outcomes(server: NatsServer) -> list[str]:
    operator = await server.connect("operator")
    try:
        return [event.outcome for event in await events(operator)]
    finally:
        await operator.close()
