"""A Triton server that is none: it says what the test has it say."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from inferbus.kserve.response import OutputTensor
from inferbus_triton_worker.domain.signature import Signature, TensorSpec
from inferbus_triton_worker.ports import InferCall, InferResult, InputTensor, ModelState

DOUBLE = Signature(
    name="double",
    versions=("1",),
    inputs=(TensorSpec("X", "FP32", (2,)),),
    outputs=(TensorSpec("Y", "FP32", (2,)),),
    max_rows=8,
)


def rows_of(count: int, first: int = 0) -> InputTensor:
    """Give rows of two FP32, each with its own number."""
    raw = b"".join(bytes([(first + n) % 256]) * 8 for n in range(count))
    return InputTensor("X", "FP32", [count, 2], raw)


def call_of(count: int = 1, first: int = 0, **fields: Any) -> InferCall:
    return InferCall(
        **{"model": "double", "version": "", "request_id": "r", "inputs": [rows_of(count, first)]} | fields
    )


class FakeTriton:
    """Answers with its input, at once or when told; `faults` are raised first, one a call."""

    def __init__(self) -> None:
        self.calls: list[InferCall] = []
        self.faults: deque[Exception] = deque()
        self.loads: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None
        self.alive = True
        self.signatures: dict[str, Signature] = {"double": DOUBLE}
        self.asked = 0
        self.refuse: Callable[[InferCall], Exception | None] = lambda _: None

    async def infer(self, call: InferCall, timeout_s: float) -> InferResult:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        if self.faults:
            raise self.faults.popleft()
        if (fault := self.refuse(call)) is not None:
            raise fault
        given = call.inputs[0]
        return InferResult("1", [OutputTensor(name="Y", datatype=given.datatype, shape=given.shape, raw=given.raw)])

    async def stream(self, call: InferCall, timeout_s: float) -> AsyncIterator[InferResult]:
        self.calls.append(call)
        if self.faults:
            raise self.faults.popleft()
        yield InferResult("1", [], final=True)

    async def signature(self, model: str, version: str) -> Signature:
        self.asked += 1
        return self.signatures[model]

    async def live(self, timeout_s: float) -> bool:
        return self.alive

    async def ready(self, timeout_s: float) -> bool:
        return self.alive

    async def index(self) -> list[ModelState]:
        return [ModelState(name, "1", "READY") for name in self.signatures]

    async def load(self, model: str, config: str = "") -> None:
        self.loads.append((model, config))

    async def unload(self, model: str, *, dependents: bool = False) -> None: ...

    async def config(self, model: str, version: str) -> dict[str, Any]:
        return {"name": model, "max_batch_size": 8}

    async def close(self) -> None: ...
