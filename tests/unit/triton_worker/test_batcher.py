from __future__ import annotations

import asyncio

import pytest
from tests.unit.triton_worker.fakes import DOUBLE, FakeTriton, call_of, rows_of

from inferbus.testing import eventually
from inferbus_triton_worker.batcher import Batcher
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferCall, InferResult, Refused, TimedOut

REFUSED = Refused("no", 400)


def ask(batcher: Batcher, call: InferCall, signature: Signature = DOUBLE) -> asyncio.Task[InferResult]:
    return asyncio.create_task(batcher.infer(signature, call, call.inputs[0].shape[0], 10.0))


async def first_of(server: FakeTriton, batcher: Batcher) -> asyncio.Task[InferResult]:
    """Have one call stay with the server until its gate opens."""
    server.gate = asyncio.Event()
    before = len(server.calls)
    task = ask(batcher, call_of(1, 0))
    await eventually(lambda: len(server.calls) > before)
    return task


def rows_asked(server: FakeTriton) -> list[int]:
    return [call.inputs[0].shape[0] for call in server.calls]


async def test_what_comes_at_once_goes_together_up_to_the_largest_batch_and_each_gets_its_own() -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    batcher = Batcher(server.infer)
    tasks = [ask(batcher, call_of(1, n)) for n in range(12)]
    await eventually(lambda: len(server.calls) == 1)
    assert (rows_asked(server), batcher.waiting) == ([8], 4)
    server.gate.set()
    results = await asyncio.gather(*tasks)
    assert rows_asked(server) == [8, 4]
    assert [result.outputs[0].raw for result in results] == [rows_of(1, n).raw for n in range(12)]
    assert not batcher._lines


async def test_what_comes_meanwhile_waits_unless_it_is_full() -> None:
    server = FakeTriton()
    batcher = Batcher(server.infer)
    tasks = [await first_of(server, batcher), *(ask(batcher, call_of(2, n)) for n in range(3))]
    await eventually(lambda: batcher.waiting == 3)
    assert rows_asked(server) == [1]
    tasks.append(ask(batcher, call_of(2, 3)))
    await eventually(lambda: len(server.calls) == 2)
    tasks += [ask(batcher, call_of(8, 0)) for _ in range(2)]
    await eventually(lambda: batcher.waiting == 2)
    assert server.gate is not None
    server.gate.set()
    await asyncio.gather(*tasks)
    assert rows_asked(server) == [1, 8, 8, 8]


async def test_one_that_is_alone_goes_at_once_and_alone() -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    batcher = Batcher(server.infer, is_alone=lambda: True)
    tasks = [ask(batcher, call_of(1, n)) for n in range(3)]
    await eventually(lambda: batcher.waiting == 2)
    server.gate.set()
    await asyncio.gather(*tasks)
    assert rows_asked(server) == [1, 2]


async def test_one_bad_request_fails_alone() -> None:
    server = FakeTriton()
    server.refuse = lambda call: REFUSED if rows_of(1, 3).raw in call.inputs[0].raw else None
    batcher = Batcher(server.infer)
    tasks = [ask(batcher, call_of(1, n)) for n in range(6)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result is REFUSED for result in results] == [n == 3 for n in range(6)]


async def test_one_that_is_given_up_takes_nobody_with_it_and_all_that_are_stop_the_call() -> None:
    server = FakeTriton()
    batcher = Batcher(server.infer)
    first = await first_of(server, batcher)
    others = [ask(batcher, call_of(1, n)) for n in range(1, 4)]
    await eventually(lambda: batcher.waiting == 3)
    others[0].cancel()
    assert server.gate is not None
    server.gate.set()
    await first
    assert (await asyncio.gather(*others[1:]))[1].outputs[0].raw == rows_of(1, 3).raw
    assert server.calls[1].inputs[0].shape[0] == 2

    first = await first_of(server, batcher)
    tasks = [ask(batcher, call_of(1, n)) for n in range(1, 4)]
    await eventually(lambda: batcher.waiting == 3)
    first.cancel()
    await eventually(lambda: len(server.calls) == 4)  # the three of them, together
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: not batcher._lines)


async def test_one_that_is_given_up_when_its_turn_has_just_come_makes_room() -> None:
    server = FakeTriton()
    batcher = Batcher(server.infer)
    first = await first_of(server, batcher)
    second = ask(batcher, call_of(1, 1))
    await eventually(lambda: batcher.waiting == 1)

    def give_up_second(_: InferCall) -> None:  # before it runs again, and after it was told to go
        asyncio.get_running_loop().call_soon(second.cancel)

    server.refuse = give_up_second
    assert server.gate is not None
    server.gate.set()
    await first
    await asyncio.gather(second, return_exceptions=True)
    assert second.cancelled()
    assert rows_asked(server) == [1]
    await eventually(lambda: not batcher._lines)


async def test_a_fault_is_everybody_s() -> None:
    server = FakeTriton()
    batcher = Batcher(server.infer)
    first = await first_of(server, batcher)
    others = [ask(batcher, call_of(1, n)) for n in range(1, 3)]
    await eventually(lambda: batcher.waiting == 2)
    server.faults.extend([TimedOut("a"), TimedOut("b")])
    assert server.gate is not None
    server.gate.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert [str(result) for result in results] == ["a", "b", "b"]


@pytest.mark.parametrize("fields", [{"max_rows": 0}, {"cached": True}, {"sequential": True}, {"decoupled": True}])
async def test_models_whose_requests_are_not_alike_get_each_alone(fields: dict[str, object]) -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    signature = Signature(
        **{"name": "m", "versions": ("1",), "inputs": DOUBLE.inputs, "outputs": DOUBLE.outputs, "max_rows": 8} | fields
    )
    batcher = Batcher(server.infer)
    tasks = [ask(batcher, call_of(1, n), signature) for n in range(5)]
    await eventually(lambda: len(server.calls) == 5)
    server.gate.set()
    await asyncio.gather(*tasks)
