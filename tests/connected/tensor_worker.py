"""A worker of tensors in the test's own process: on the real bus, with an engine that computes with lists.

It doubles FP32 inputs, writes BYTES in capitals, both `repeat` times, and answers operators; what a model server says of models it makes up.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from nats.aio.msg import Msg
from tests.connected.rig import Call, WorkerSide

from inferbus import routes
from inferbus.codec import from_json, to_json
from inferbus.contracts.control import TRITON
from inferbus.contracts.step import Usage
from inferbus.contracts.triton import CONFIG, INDEX, LOAD, METADATA, READY, STATS, UNLOAD, TritonAsk, TritonReply
from inferbus.errors import InferbusError, kserve_body
from inferbus.kserve.content_type import content_type_of
from inferbus.kserve.paths import GENERATE_STREAM, parse_path
from inferbus.kserve.request import InferRequest, parse
from inferbus.kserve.response import OutputTensor, write
from inferbus.kserve.tensors import Tensor, bytes_raw, elements_of, raw_of, values_of
from inferbus.testing import NatsServer
from inferbus.worker.tasks import EMBEDDINGS

METADATA_OF = {"platform": "python", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}


class TensorWorker:
    """One worker and what it was asked. `versions` are those it says it has."""

    def __init__(self, side: WorkerSide) -> None:
        self.side = side
        self.asked: list[TritonAsk] = []
        self.versions = ["1"]
        self.answering = True
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        side.engine.answer = self._answer

    async def start(self) -> None:
        await self.side.start()
        self.side.attempts.on_control(TRITON, self._begin)

    async def stop(self) -> None:
        """Go, once."""
        if not self._stopped:
            self._stopped = True
            await self.side.stop()

    def _answer(self, call: Call) -> None:
        work, sink = call.work, call.sink
        if work.path == EMBEDDINGS:
            sink.finished(
                200, Usage(1, 0), b'{"object":"list","data":[],"model":"%s"}' % work.model.encode(), "application/json"
            )
            return
        path = parse_path(work.path)
        assert path is not None
        if path.verb == GENERATE_STREAM:
            for number in range(3):
                sink.delta([(0, [number])], b'data: {"model_name":"m","n":%d}\n\n' % number)
            sink.finished(200, Usage(1, 3), b"", "text/event-stream; charset=utf-8")
            return
        try:
            request = parse(work.body, work.json_bytes)
            if path.version and path.version not in self.versions:
                sink.finished(404, Usage(), b'{"error":"unknown version"}', "application/json")
                return
            data, json_bytes = write(
                path.model, path.version or self.versions[-1], request.id, _outputs(request), request
            )
        except InferbusError as error:
            sink.finished(error.row.http_status, Usage(), to_json(kserve_body(error)), "application/json")
            return
        sink.finished(200, Usage(request.inputs[0].shape[0], 0), data, content_type_of(json_bytes))

    def _begin(self, message: Msg) -> None:
        task = asyncio.create_task(self._on_ask(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_ask(self, message: Msg) -> None:
        if not self.answering:
            return
        ask = from_json(message.data, TritonAsk, what="ask")
        self.asked.append(ask)
        await self.side.bus.publish(message.reply, to_json(self._said(ask)))

    def _said(self, ask: TritonAsk) -> TritonReply:
        if ask.version and ask.version not in self.versions:
            return TritonReply(status=404, error=f"unknown version {ask.version}")
        said = {
            METADATA: {"name": ask.model, "versions": self.versions} | METADATA_OF,
            READY: {"ready": True},
            CONFIG: {"name": ask.model, "max_batch_size": 64},
            STATS: {"model_stats": [{"name": ask.model, "inference_count": 7}]},
            INDEX: [{"name": "m", "version": version, "state": "READY", "reason": ""} for version in self.versions],
            LOAD: {},
            UNLOAD: {},
        }
        if ask.op == LOAD and ask.model == "missing":
            return TritonReply(status=400, error="failed to load 'missing', failed to poll from model repository")
        return TritonReply(data=msgspec.Raw(to_json(said[ask.op])))


@asynccontextmanager
async def tensor_worker(
    server: NatsServer, *, pool: str, process: str = "triton-0", lane: str = routes.INTERACTIVE
) -> AsyncIterator[TensorWorker]:
    bus = await server.connect("worker", name=process)
    worker = TensorWorker(WorkerSide(bus, process, pool=pool, runtime="triton", lane=lane))
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


def _outputs(request: InferRequest) -> list[OutputTensor]:
    names = [output.name for output in request.outputs]
    times = int(request.parameters.get("repeat", 1))
    made = [_made(tensor, times) for tensor in request.inputs]
    return [output for output in made if not names or output.name in names]


def _made(tensor: Tensor, times: int) -> OutputTensor:
    raw = raw_of(tensor)
    count = elements_of(tensor.shape)
    if tensor.datatype == "FP32":
        raw = struct.pack(f"<{count}f", *[2 * value for value in values_of("FP32", tensor.shape, raw)])
    elif tensor.datatype == "BYTES":
        raw = bytes_raw([value.upper() for value in values_of("BYTES", tensor.shape, raw)])
    shape = [times * tensor.shape[0], *tensor.shape[1:]]
    return OutputTensor(name=f"{tensor.name}_out", datatype=tensor.datatype, shape=shape, raw=bytes(raw) * times)
