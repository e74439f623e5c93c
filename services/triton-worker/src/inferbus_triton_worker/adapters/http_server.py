"""A Triton server whose single inferences go over its HTTP, raw tensors behind a JSON head, and all else over gRPC.

Measured on one event loop (docs/adr/0015-triton-worker.md): a call over gRPC costs this process five times and the server one
and a half times as much. What HTTP cannot do stays with gRPC: parameters of every kind, and ending at the server a call that was
given up. So after a call that was, its model is asked over gRPC for a minute.
"""

from __future__ import annotations

import asyncio
import re
import time

import msgspec

from inferbus.kserve.response import OutputTensor
from inferbus_triton_worker.adapters.grpc_server import GrpcTriton
from inferbus_triton_worker.adapters.http_connection import Answer, HttpConnection
from inferbus_triton_worker.adapters.messages import dead_model
from inferbus_triton_worker.ports import Busy, InferCall, InferResult, ModelDead, Refused, ServerError, TimedOut

_CONNECT_S = 2.0
_GIVEN_UP_S = 60.0
_UNAVAILABLE, _UNIMPLEMENTED = 503, 501
_SIZE = "binary_data_size"


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int]


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, bool]


class _Head(msgspec.Struct, omit_defaults=True):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: dict[str, bool] = {}


class _AnsweredTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, object] = {}


class _AnswerHead(msgspec.Struct):
    model_version: str = ""
    outputs: list[_AnsweredTensor] = []


class _Error(msgspec.Struct):
    error: str = ""


_in_path = re.compile(r"[A-Za-z0-9._~-]+").fullmatch
_RAW = {"binary_data": True}
_ALL_RAW = {"binary_data_output": True}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_AnswerHead).decode
_decode_error = msgspec.json.Decoder(_Error).decode


class HttpTriton(GrpcTriton):
    """Implements `TritonServer`. Make it on the event loop it is used on. Addresses are host:port."""

    def __init__(self, grpc_address: str, http_address: str) -> None:
        super().__init__(grpc_address)
        self._host, _, port = http_address.rpartition(":")
        self._port = int(port)
        self._free: list[HttpConnection] = []
        self._given_up: dict[str, float] = {}
        self._closed = False

    async def infer(self, call: InferCall, timeout_s: float) -> InferResult:
        if not _is_plain(call) or self._was_given_up(call.model):
            return await self.infer_by_grpc(call, timeout_s)
        connection = self._kept() or await self._connect(timeout_s)
        try:
            answer = await connection.ask(request_of(call, self._host), timeout_s)
        except TimeoutError as exc:
            self._given_up[call.model] = time.monotonic()
            raise TimedOut(f"no answer within {timeout_s:g} s") from exc
        except asyncio.CancelledError:
            self._given_up[call.model] = time.monotonic()
            raise
        except OSError as exc:
            raise Busy(f"the connection ended: {exc}") from exc
        if not connection.closed and not self._closed:
            self._free.append(connection)
        if answer.status != 200:
            raise error_of(answer)
        return result_of(answer)

    async def infer_by_grpc(self, call: InferCall, timeout_s: float) -> InferResult:
        return await super().infer(call, timeout_s)

    async def close(self) -> None:
        self._closed = True
        for connection in self._free:
            connection.close()
        self._free.clear()
        await super().close()

    def _kept(self) -> HttpConnection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self, timeout_s: float) -> HttpConnection:
        try:
            async with asyncio.timeout(min(timeout_s, _CONNECT_S) if timeout_s else _CONNECT_S):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(HttpConnection, self._host, self._port)
        except (OSError, TimeoutError) as exc:
            raise Busy(f"it does not take connections: {exc!r}") from exc
        return connection

    def _was_given_up(self, model: str) -> bool:
        if not self._given_up:
            return False
        since = self._given_up.get(model)
        if since is None:
            return False
        if time.monotonic() - since < _GIVEN_UP_S:
            return True
        del self._given_up[model]
        return False


def request_of(call: InferCall, host: str) -> bytes:
    """Write a plain call as a request of HTTP."""
    inputs = [_Input(each.name, each.datatype, each.shape, {_SIZE: len(each.raw)}) for each in call.inputs]
    if call.outputs:
        head = _encode(_Head(inputs, call.request_id, [_Output(output.name, _RAW) for output in call.outputs]))
    else:
        head = _encode(_Head(inputs, call.request_id, [], _ALL_RAW))
    body = b"".join([head, *[each.raw for each in call.inputs]])
    version = f"/versions/{call.version}" if call.version else ""
    trace = f"traceparent: {call.traceparent}\r\n" if call.traceparent else ""
    lines = (
        f"POST /v2/models/{call.model}{version}/infer HTTP/1.1\r\nHost: {host}\r\n{trace}"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


def result_of(answer: Answer) -> InferResult:
    """Read an answer; its tensors are slices of it.

    Raises:
        Refused: it is none.
    """
    body, at = memoryview(answer.body), answer.json_bytes or len(answer.body)
    try:
        head = _decode(body[:at])
        outputs = []
        for given in head.outputs:
            size = given.parameters.get(_SIZE)
            if type(size) is not int or not 0 <= size <= len(body) - at:
                raise Refused(f"Triton answered output {given.name} with {_SIZE} {size!r}", 500)
            raw = body[at : at + size]
            outputs.append(OutputTensor(name=given.name, datatype=given.datatype, shape=given.shape, raw=raw))
            at += size
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Refused(f"Triton's answer cannot be read: {exc}", 500) from exc
    return InferResult(head.model_version, outputs)


def error_of(answer: Answer) -> ServerError:
    """Translate what a call ended in, as gRPC's ends are."""
    try:
        message = _decode_error(answer.body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = answer.body[:1000].decode(errors="replace")
    if model := dead_model(message):
        return ModelDead(message, model)
    if answer.status == _UNAVAILABLE:
        return Busy(message)
    if answer.status == _UNIMPLEMENTED:
        return Refused(message, 400)
    return Refused(message, answer.status if 400 <= answer.status < 500 else 500)


def _is_plain(call: InferCall) -> bool:
    """Whether a call says nothing but tensors, all of them of some size, and has a path of HTTP as it is."""
    return not (
        call.parameters
        or not _in_path(f"{call.model}{call.version}")
        or any(output.parameters for output in call.outputs)
        or not all(each.raw for each in call.inputs)
    )
