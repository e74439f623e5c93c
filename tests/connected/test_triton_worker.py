"""The Triton worker on a real bus, with a real Triton server of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.connected.triton_models import (
    COUNT,
    COUNT_CONFIG,
    DEADLY,
    DOUBLE_CONFIG,
    RAISES,
    SLOW,
    VECTORS,
    VECTORS_CONFIG,
    WAITS,
    add_model,
)
from tests.process_tree import descendants
from tests.triton_path import ENVIRONMENT, TritonPath, tensor

from inferbus import routes
from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.contracts.control import MODEL, TRITON
from inferbus.contracts.triton import CONFIG, INDEX, LOAD, METADATA, SERVER, STATS, UNLOAD, TritonAsk, TritonReply
from inferbus.contracts.usage import UsageEvent
from inferbus.errors import (
    DeadlineWhileQueued,
    DeadlineWhileRunning,
    NotFound,
    Poison,
    ResumeImpossible,
)
from inferbus.kserve.content_type import json_bytes_of
from inferbus.kserve.paths import GENERATE_STREAM
from inferbus.testing import eventually
from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions

pytestmark = pytest.mark.timeout(240)
MODELS = ("double", "slow", "deadly", "raises", "count", "vectors")


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[TritonPath]:
    async with TritonPath(tmp_path, *MODELS) as path:
        add_model(path.repository, "double")
        add_model(path.repository, "slow", SLOW)
        add_model(path.repository, "deadly", DEADLY)
        add_model(path.repository, "raises", RAISES)
        add_model(path.repository, "count", COUNT, COUNT_CONFIG)
        add_model(path.repository, "vectors", VECTORS, VECTORS_CONFIG)
        yield path


def stub_of(worker: int, model: str) -> int:
    """Find the process in which a Python model runs."""
    return next(each.pid for each in descendants(worker) if f"/{model}/1/model.py" in each.command and each.alive())


def server_of(worker: int) -> int:
    return next(each.pid for each in descendants(worker) if "bin/tritonserver" in each.command.split(" ")[0])


async def ask_many(path: TritonPath, model: str, count: int) -> list[asyncio.Task[list[float]]]:
    async def one(n: int) -> list[float]:
        answer = await path.ask(model, tensor("X", [[n, 0, 0, 1]]))
        assert answer.status == 200, answer.data
        return answer.values("Y")

    return [asyncio.create_task(one(n)) for n in range(count)]


async def test_answers_bad_input_and_everything_else_it_is_asked(path: TritonPath) -> None:
    await path.triton()
    answer = await path.ask("double", tensor("X", [[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert (answer.status, answer.rows) == (200, 2)
    assert answer.values("Y") == [2, 4, 6, 8, 10, 12, 14, 16]
    assert answer.json["model_name"] == "double"

    raw = struct.pack("<4f", 1, 2, 3, 4)
    head = json.dumps({
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "Y", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    answer = await path.ask("double", head + raw, json_bytes=len(head))
    size = json_bytes_of(answer.content_type)
    assert answer.data[size:] == struct.pack("<4f", 2, 4, 6, 8)
    assert json.loads(answer.data[:size])["outputs"][0]["parameters"]["binary_data_size"] == 16

    for body, words in (
        (tensor("X", [[1, 2]]), ["X", "[-1,4]", "[1,2]"]),
        (tensor("X", [[1, 2, 3, 4]] * 9), ["X", "1 to 8 rows", "9"]),
        (tensor("X", [[1, 2, 3, 4]], "INT32"), ["X", "FP32", "INT32"]),
        (tensor("Z", [[1, 2, 3, 4]]), ["Z", "`X`"]),
        (tensor("X", [[1, 2, 3, 4]]) | {"outputs": [{"name": "Q"}]}, ["Q", "`Y`"]),
        ({"inputs": []}, ["inputs"]),
        ([], ["object"]),
    ):
        answer = await path.ask("double", body)
        assert (answer.status, answer.rows) == (400, 0), answer.data
        assert all(word in answer.json["error"] for word in words), answer.data
    answer = await path.ask("double", tensor("X", [[1, 2, 3, 4]]), path="/v2/models/double/versions/7/infer")
    assert answer.status == 404
    assert "version 7" in answer.json["error"]
    answer = await path.ask("raises", tensor("X", [[1, 2, 3, 4]]))
    assert answer.status == 500
    assert "a bug of the model's" in answer.json["error"]

    operator = await path.nats.connect("operator")
    stored = await read_stored(operator, routes.STREAM_USAGE, routes.SUBJECTS_USAGE)
    await operator.close()
    events = [msgspec.json.decode(one.data, type=UsageEvent) for one in stored]
    assert {event.task for event in events} == {"infer"}
    assert [event.prompt_tokens for event in events if event.outcome == "finished"] == [2, 1]
    await eventually(lambda: _is_empty(path))


async def test_streams_and_vectors(path: TritonPath) -> None:
    await path.triton()
    answer = await path.ask("count", {"N": 3}, verb=GENERATE_STREAM, streamed=True)
    assert (answer.status, answer.content_type) == (200, "text/event-stream; charset=utf-8")
    events = [json.loads(event.removeprefix(b"data: ")) for event in answer.data.split(b"\n\n")[:-1]]
    assert [event["TOK"] for event in events] == ["tok0", "tok1", "tok2"]
    body = {"inputs": [{"name": "N", "datatype": "INT32", "shape": [1], "data": [2]}]}
    answer = await path.ask("count", body, verb=GENERATE_STREAM, streamed=True)
    assert answer.data.count(b'"outputs":[{"name":"TOK","datatype":"BYTES","shape":[1],"data":["tok') == 2
    answer = await path.ask("count", {"N": "three"}, verb=GENERATE_STREAM, streamed=True)
    assert (answer.status, "INT32" in answer.json["error"]) == (400, True)
    answer = await path.ask("count", body)
    assert (answer.status, GENERATE_STREAM in answer.json["error"]) == (422, True)

    texts = ["a b", "hello", "", "x" * 40, "c", "d d d", "e"]
    answer = await path.ask("vectors", {"input": texts[:2] + texts[3:]}, path="/v1/embeddings", task="embeddings")
    assert answer.rows == 6
    data = answer.json["data"]
    assert [item["index"] for item in data] == list(range(6))
    assert [item["embedding"] for item in data[:3]] == [[3, 1, 1], [5, 0, 1], [40, 0, 1]]
    body = {"input": "a b", "encoding_format": "base64", "model": "vectors"}
    answer = await path.ask("vectors", body, path="/v1/embeddings", task="embeddings")
    assert struct.unpack("<3f", base64.b64decode(answer.json["data"][0]["embedding"])) == (3, 1, 1)
    for body in ({"input": []}, {"input": [1, 2]}, {"input": texts}, {"input": "a", "encoding_format": "hex"}, {}):
        answer = await path.ask("vectors", body, path="/v1/embeddings", task="embeddings")
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


async def test_operators_ask_about_the_server_and_change_what_is_loaded(path: TritonPath) -> None:
    await path.triton()
    gateway = path.asking

    async def operate(bus: Bus, op: str, **fields: Any) -> TritonReply:
        data = msgspec.json.encode(TritonAsk(op=op, **fields))
        verb = MODEL if bus is gateway else TRITON
        message = await bus.request(routes.control_of("triton-0", verb), data, timeout_s=60)
        return msgspec.json.decode(message.data, type=TritonReply)

    admin = await path.nats.connect("admin")
    try:
        reply = await operate(gateway, METADATA, model="double")
        assert msgspec.json.decode(reply.data)["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
        assert (await operate(gateway, METADATA, model="nobody")).status == 404
        assert (await operate(admin, "explode")).status == 400
        for op in (LOAD, UNLOAD, INDEX, SERVER):  # the bus refuses it the other subject
            assert (await operate(gateway, op, model="double")).status == 403
        await path.ask("double", tensor("X", [[1, 2, 3, 4]]))

        async def is_counted() -> bool:  # Triton counts after it has answered
            stats = msgspec.json.decode((await operate(admin, STATS, model="double")).data)
            return int(stats["model_stats"][0]["inference_count"]) >= 1

        await eventually(is_counted)
        assert {"name": "double", "version": "1", "state": "READY", "reason": ""} in msgspec.json.decode(
            (await operate(admin, INDEX)).data
        )

        folder = add_model(path.repository, "double", version=2)
        (folder / "2/model.py").write_text(SLOW.replace("x * 2", "x * 3"))
        assert (await operate(admin, LOAD, model="double")).status == 200
        answer = await path.ask("double", tensor("X", [[1, 2, 3, 4]]))
        assert (answer.json["model_version"], answer.values("Y")) == ("2", [3, 6, 9, 12])
        wider = DOUBLE_CONFIG.replace("dims: [ 4 ]", "dims: [ 5 ]")
        (folder / "config.pbtxt").write_text(wider)
        assert (await operate(admin, LOAD, model="double")).status == 200
        assert (await path.ask("double", tensor("X", [[1, 2, 3, 4]]))).status == 400
        assert (await path.ask("double", tensor("X", [[1, 2, 3, 4, 5]]))).status == 200

        config = msgspec.json.decode((await operate(admin, CONFIG, model="double")).data)
        config["version_policy"] = {"specific": {"versions": [1]}}
        assert (await operate(admin, LOAD, model="double", config=json.dumps(config))).status == 200
        answer = await path.ask("double", tensor("X", [[1, 2, 3, 4, 5]]))
        assert (answer.json["model_version"], answer.values("Y")) == ("1", [2, 4, 6, 8, 10])
        assert (await operate(admin, UNLOAD, model="double")).status == 200
        await eventually(lambda: _is_refused(path), within_s=20)
        reply = await operate(admin, LOAD, model="nobody")
        assert (reply.status, "nobody" in reply.error) == (400, True)
    finally:
        await admin.close()


async def test_a_model_whose_process_is_killed_under_load_is_healed_and_nothing_is_lost(path: TritonPath) -> None:
    worker = await path.triton()
    await path.ask("slow", tensor("X", [[1, 0, 0, 1]]))
    tasks = await ask_many(path, "slow", 200)
    await asyncio.wait(tasks[:20], timeout=30)
    os.kill(stub_of(worker.pid, "slow"), signal.SIGKILL)
    assert await asyncio.gather(*tasks) == [[2 * n, 0, 0, 2] for n in range(200)]
    assert "model_healed" in path.log("triton-0")
    assert path.figure("triton-0", "inferbus_triton_heals") >= 1
    assert path.beat("triton-0").engine.restarts == 0


async def test_triton_killed_under_load_is_started_again_and_nothing_is_lost(path: TritonPath) -> None:
    worker = await path.triton()
    tasks = await ask_many(path, "slow", 200)
    await asyncio.wait(tasks[:20], timeout=30)
    os.kill(server_of(worker.pid), signal.SIGKILL)
    assert await asyncio.gather(*tasks) == [[2 * n, 0, 0, 2] for n in range(200)]
    assert "engine_restarted" in path.log("triton-0")
    assert await dead_letters(path) == 0


async def test_a_worker_killed_under_load_loses_nothing_to_the_other_at_the_same_triton(path: TritonPath) -> None:
    server = ManagedServer(
        ServerOptions(environment=ENVIRONMENT, repository=path.repository, state=path.repository.parent / "state"),
        os.environ,
    )
    address = await server.start()
    try:
        first = await path.triton("triton-0", address=address, http_address=server.http_address)
        await path.triton("triton-1", address=address)  # over gRPC alone
        tasks = await ask_many(path, "slow", 200)
        await asyncio.wait(tasks[:20], timeout=30)
        first.signal(signal.SIGKILL)
        assert await asyncio.gather(*tasks) == [[2 * n, 0, 0, 2] for n in range(200)]
        assert path.log("triton-1").count("work_finished") > 10
    finally:
        await server.stop()


async def test_a_request_that_kills_its_model_every_time_is_a_dead_letter_and_no_other(path: TritonPath) -> None:
    await path.triton(probe_every_s=60)
    good = await ask_many(path, "deadly", 5)
    bad = asyncio.create_task(path.ask("deadly", tensor("X", [[-1, 0, 0, 0]])))
    with pytest.raises(Poison):
        await bad
    await asyncio.gather(*good, *await ask_many(path, "deadly", 5))
    assert await dead_letters(path) == 1


async def test_a_stream_whose_model_dies_ends_in_an_error_and_not_in_silence(path: TritonPath) -> None:
    worker = await path.triton(probe_every_s=0.5)
    task = asyncio.create_task(path.ask("count", {"N": 500}, verb=GENERATE_STREAM, streamed=True))
    await eventually(lambda: path.beat("triton-0").in_flight == 1)
    await asyncio.sleep(0.3)
    os.kill(stub_of(worker.pid, "count"), signal.SIGKILL)
    with pytest.raises(ResumeImpossible):
        await asyncio.wait_for(task, 30)
    answer = await path.ask("count", {"N": 2}, verb=GENERATE_STREAM, streamed=True)
    assert answer.status == 200


async def test_a_deadline_ends_a_request_at_the_server_too(path: TritonPath) -> None:
    await path.triton(micro_batch=False)
    tasks = await ask_many(path, "slow", 60)
    with pytest.raises((DeadlineWhileRunning, DeadlineWhileQueued)):
        await path.ask("slow", tensor("X", [[1, 0, 0, 1]]), deadline_s=0.05)
    await asyncio.gather(*tasks)
    await eventually(lambda: _is_empty(path))


async def test_a_model_that_the_directory_does_not_have_cannot_be_asked_by_another_ones_right(path: TritonPath) -> None:
    add_model(path.repository, "hidden")
    await path.triton()
    answer = await path.ask("double", tensor("X", [[1, 2, 3, 4]]), path="/v2/models/hidden/infer")
    assert answer.json["model_name"] == "double"
    with pytest.raises(NotFound):
        await path.ask("hidden", tensor("X", [[1, 2, 3, 4]]))


async def test_a_worker_that_is_drained_finishes_what_it_has(path: TritonPath) -> None:
    worker = await path.triton()
    tasks = await ask_many(path, "slow", 40)
    await asyncio.wait(tasks[:5], timeout=30)
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    await path.triton()
    assert await asyncio.gather(*tasks) == [[2 * n, 0, 0, 2] for n in range(40)]


async def test_a_direct_request_nobody_waits_for_is_cancelled_at_the_server(tmp_path: Path) -> None:
    async with TritonPath(tmp_path, "slow", delivery="direct") as path:
        runs, go = tmp_path / "runs", tmp_path / "go"
        add_model(path.repository, "slow", WAITS.format(runs=str(runs), go=str(go)))
        await path.triton(slots=4, micro_batch=False, probe_every_s=600)
        body = json.dumps(tensor("X", [[1, 2, 3, 4]])).encode()
        ask = Ask(model="slow", task="infer", path="/v2/models/slow/infer", body=body, deadline_s=60.0)
        first = await path.admission.admit(Identity(tenant="dev"), ask)
        await eventually(runs.exists, within_s=30)
        first.cancel()  # it has begun: the model goes on with it, nobody else does
        await eventually(lambda: path.beat("triton-0").in_flight == 0)
        exchanges = [await path.admission.admit(Identity(tenant="dev"), ask) for _ in range(3)]  # wait at the server
        await eventually(lambda: path.beat("triton-0").in_flight == 3)
        for exchange in exchanges:
            exchange.cancel()
        await eventually(lambda: path.beat("triton-0").in_flight == 0)
        go.touch()
        answer = await path.ask("slow", tensor("X", [[1, 2, 3, 4]]))
        assert answer.values("Y") == [2, 4, 6, 8]
        assert runs.read_text() == "xx"  # the first, and the one after them


async def _is_empty(path: TritonPath) -> bool:
    return await path.stored() == 0


async def _is_refused(path: TritonPath) -> bool:
    return (await path.ask("double", tensor("X", [[1, 2, 3, 4, 5]]))).status == 404


async def dead_letters(path: TritonPath) -> int:
    bus = await path.nats.connect("operator")
    try:
        return len(await read_stored(bus, routes.STREAM_DLQ, routes.SUBJECTS_DLQ))
    finally:
        await bus.close()


async def test_directly_delivered_requests_are_answered_refused_and_billed_like_the_others(tmp_path: Path) -> None:
    async with TritonPath(tmp_path, "double", "count", delivery="direct") as path:
        add_model(path.repository, "double")
        add_model(path.repository, "count", COUNT, COUNT_CONFIG)
        await path.triton(slots=4)
        answers = await asyncio.gather(*(path.ask("double", tensor("X", [[n, 0, 0, 1]])) for n in range(40)))
        assert [answer.values("Y") for answer in answers] == [[2 * n, 0, 0, 2] for n in range(40)]
        assert "direct_open" in path.log("triton-0")
        assert (await path.ask("double", tensor("X", [[1, 2]]))).status == 400
        answer = await path.ask("count", {"N": 2}, verb=GENERATE_STREAM, streamed=True)  # by the queue
        assert answer.data.count(b"data: ") == 2
        large = tensor("X", [[n, 0, 0, 1] for n in range(8)]) | {"id": "x" * 2_000_000}
        assert (await path.ask("double", large)).json["id"] == large["id"]  # by ticket

        operator = await path.nats.connect("operator")
        stored = await read_stored(operator, routes.STREAM_USAGE, routes.SUBJECTS_USAGE)
        await operator.close()
        events = [msgspec.json.decode(one.data, type=UsageEvent) for one in stored]
        assert sorted(event.outcome for event in events) == ["finished"] * 42 + ["rejected"]
        assert sum(event.prompt_tokens for event in events) == 40 + 1 + 8
