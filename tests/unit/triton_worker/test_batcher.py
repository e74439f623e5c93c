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


async def test_what_waits_goes_together_up_to_the_largest_batch_and_each_gets_its_own() -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    batcher = Batcher(server.infer, window=1)
    tasks = [ask(batcher, call_of(1, n)) for n in range(12)]
    await eventually(lambda: batcher.waiting == 11)
    assert len(server.calls) == 1
    server.gate.set()
    results = await asyncio.gather(*tasks)
    assert [call.inputs[0].shape[0] for call in server.calls] == [1, 8, 3]
    assert [result.outputs[0].raw for result in results] == [rows_of(1, n).raw for n in range(12)]


async def test_one_bad_request_fails_alone() -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    server.refuse = lambda call: REFUSED if rows_of(1, 3).raw in call.inputs[0].raw else None
    batcher = Batcher(server.infer, window=1)
    tasks = [ask(batcher, call_of(1, n)) for n in range(6)]
    await eventually(lambda: batcher.waiting == 5)
    server.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result is REFUSED for result in results] == [n == 3 for n in range(6)]


async def test_one_that_is_given_up_takes_nobody_with_it_and_all_that_are_stop_the_call() -> None:
    server = FakeTriton()
    batcher = Batcher(server.infer, window=1)
    server.gate = asyncio.Event()
    first, *others = [ask(batcher, call_of(1, n)) for n in range(4)]
    await eventually(lambda: batcher.waiting == 3)
    others[0].cancel()
    server.gate.set()
    await first
    assert (await asyncio.gather(*others[1:]))[1].outputs[0].raw == rows_of(1, 3).raw
    assert server.calls[1].inputs[0].shape[0] == 2

    server.gate = asyncio.Event()
    tasks = [ask(batcher, call_of(1, n)) for n in range(4)]
    await eventually(lambda: batcher.waiting == 3)
    first = tasks.pop(0)
    first.cancel()
    await eventually(lambda: len(server.calls) == 4)  # the three of them, together
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: not batcher._lines)


async def test_a_fault_is_everybody_s() -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    batcher = Batcher(server.infer, window=1)
    tasks = [ask(batcher, call_of(1, n)) for n in range(3)]
    await eventually(lambda: batcher.waiting == 2)
    server.faults.extend([TimedOut("a"), TimedOut("b")])
    server.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["a", "b", "b"]


@pytest.mark.parametrize("fields", [{"max_rows": 0}, {"cached": True}, {"sequential": True}, {"decoupled": True}])
async def test_models_whose_requests_are_not_alike_get_each_alone(fields: dict[str, object]) -> None:
    server = FakeTriton()
    server.gate = asyncio.Event()
    signature = Signature(
        **{"name": "m", "versions": ("1",), "inputs": DOUBLE.inputs, "outputs": DOUBLE.outputs, "max_rows": 8} | fields
    )
    batcher = Batcher(server.infer, window=1)
    tasks = [ask(batcher, call_of(1, n), signature) for n in range(5)]
    await eventually(lambda: len(server.calls) == 5)
    server.gate.set()
    await asyncio.gather(*tasks)
