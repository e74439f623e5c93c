"""Inference over HTTP: what is asked, what an answer means, and when gRPC is asked instead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from tests.unit.triton_worker.fakes import call_of

from inferbus_triton_worker.adapters.http_connection import Answer
from inferbus_triton_worker.adapters.http_server import HttpTriton, error_of, request_of, result_of
from inferbus_triton_worker.ports import (
    Busy,
    InferCall,
    InferResult,
    InputTensor,
    ModelDead,
    Refused,
    ServerError,
    TimedOut,
    WantedOutput,
)

RAW = bytes(8)
OUTPUT = {"name": "Y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
HEAD = json.dumps({"model_name": "double", "model_version": "3", "outputs": [OUTPUT]}).encode()


class Door:
    """A server of HTTP that answers by `answer`, or never where that is None; counts connections and requests."""

    def __init__(self) -> None:
        self.answer: Callable[[], bytes] | None = good_answer
        self.connections = 0
        self.requests: list[bytes] = []
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                if self.answer is not None:
                    writer.write(self.answer())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Both(HttpTriton):
    """Counts what would go over gRPC."""

    by_grpc = 0

    async def infer_by_grpc(self, call: InferCall, timeout_s: float) -> InferResult:
        self.by_grpc += 1
        return InferResult("grpc", [])


def good_answer() -> bytes:
    lines = (
        f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {len(HEAD)}\r\nContent-Length: {len(HEAD) + 8}\r\n\r\n"
    )
    return lines.encode() + HEAD + RAW


def refusal(status: int, message: str) -> bytes:
    body = json.dumps({"error": message}).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    door.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield door


@pytest.fixture
async def triton(door: Door) -> AsyncIterator[Both]:
    triton = Both("127.0.0.1:1", door.address)
    yield triton
    await triton.close()


def test_a_call_is_one_message_with_its_tensors_as_they_are() -> None:
    call = call_of(2, model="a.b", version="7", outputs=[WantedOutput("Y")], traceparent="00-1-2-01")
    head, _, body = request_of(call, "h").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[:3] == ["POST /v2/models/a.b/versions/7/infer HTTP/1.1", "Host: h", "traceparent: 00-1-2-01"]
    size = int(lines[3].removeprefix("Inference-Header-Content-Length: "))
    assert lines[4:] == [f"Content-Length: {len(body)}"]
    assert body[size:] == call.inputs[0].raw
    assert json.loads(body[:size]) == {
        "id": "r",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "Y", "parameters": {"binary_data": True}}],
    }


def test_all_outputs_are_asked_for_raw() -> None:
    body = request_of(call_of(1, request_id=""), "h").partition(b"\r\n\r\n")[2]
    assert json.loads(body[: body.index(b"}]") + len(b'}],"parameters":{"binary_data_output":true}}')]) == {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
        "parameters": {"binary_data_output": True},
    }


def test_an_answer_s_tensors_are_slices_of_it() -> None:
    result = result_of(Answer(200, len(HEAD), HEAD + b"12345678"))
    assert (result.version, result.outputs[0].name, bytes(result.outputs[0].raw)) == ("3", "Y", b"12345678")


@pytest.mark.parametrize("body", [HEAD + b"1234", b"[]", b"\xff"])
def test_what_cannot_be_read_is_a_fault_of_the_server_s(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        result_of(Answer(200, len(HEAD) if len(body) > len(HEAD) else 0, body))
    assert refused.value.status == 500


@pytest.mark.parametrize(
    ("status", "message", "kind", "as_status"),
    [
        (400, "expected 1 inputs", Refused, 400),
        (404, "unknown model", Refused, 404),
        (501, "doesn't support models with decoupled transaction policy", Refused, 400),
        (500, "a bug of the model's", Refused, 500),
        (302, "", Refused, 500),
        (503, "exceeds maximum queue size", Busy, 0),
        (500, "Stub process 'a_b_0_0' is not healthy.", ModelDead, 0),
    ],
)
def test_ends_mean_what_grpc_s_mean(status: int, message: str, kind: type[ServerError], as_status: int) -> None:
    error = error_of(Answer(status, 0, json.dumps({"error": message}).encode()))
    assert (type(error), error.message, getattr(error, "status", 0)) == (kind, message, as_status)
    assert getattr(error, "model", "a_b") == "a_b"
    assert error_of(Answer(status, 0, b"<html>")).message == "<html>"


async def test_connections_are_kept_and_as_many_as_calls_at_once(door: Door, triton: Both) -> None:
    for _ in range(5):
        assert (await triton.infer(call_of(), 10.0)).version == "3"
    assert (door.connections, len(door.requests)) == (1, 5)
    await asyncio.gather(*(triton.infer(call_of(), 10.0) for _ in range(4)))
    assert door.connections <= 4
    door.answer = lambda: refusal(400, "no")
    with pytest.raises(Refused, match="no"):
        await triton.infer(call_of(), 10.0)
    assert triton.by_grpc == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "a/b"},
        {"model": "double", "version": "1 2"},
        {"parameters": {"sequence_id": 1}},
        {"outputs": [WantedOutput("Y", {"classification": 2})]},
        {"inputs": [InputTensor("X", "FP32", [0, 2], b"")]},
    ],
)
async def test_what_is_more_than_tensors_goes_over_grpc(door: Door, triton: Both, fields: dict[str, object]) -> None:
    assert (await triton.infer(call_of(**fields), 10.0)).version == "grpc"
    assert door.requests == []


async def test_a_model_whose_call_was_given_up_is_asked_over_grpc_for_a_while(door: Door, triton: Both) -> None:
    door.answer = None
    with pytest.raises(TimedOut):
        await triton.infer(call_of(), 0.01)
    door.answer = good_answer
    assert (await triton.infer(call_of(), 10.0)).version == "grpc"
    assert (await triton.infer(call_of(model="other"), 10.0)).version == "3"


async def test_a_server_that_is_not_there_is_busy_as_grpc_says(triton: Both, door: Door) -> None:
    nowhere = Both("127.0.0.1:1", "127.0.0.1:1")
    with pytest.raises(Busy):
        await nowhere.infer(call_of(), 10.0)
    await nowhere.close()
    door.answer = lambda: b"no HTTP\r\n\r\n"
    with pytest.raises(Busy):
        await triton.infer(call_of(), 10.0)
    door.answer = good_answer
    assert (await triton.infer(call_of(), 10.0)).version == "3"
