"""KServe v2 at the HTTP door: bodies pass as they came, errors have the protocol's form, health is open."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.unit.gateway.fakes import Call, Door, FakeEngine

from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import READY, Presence
from inferbus.errors import (
    DeadlineWhileQueued,
    DeadlineWhileRunning,
    Forbidden,
    InferbusError,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
    Unsupported,
)
from inferbus_gateway.settings import GatewaySettings

RANKER = ModelEntry(name="team/ranker", pool="ranker", runtime="triton", tasks=("infer",), aliases=["ranker"])
LLM = ModelEntry(name="tiny", pool="tiny")
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}]}
BINARY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}\0\0\0\0'
JSON_BYTES = len(BINARY) - 4
INFER = "/v2/models/ranker/infer"


@pytest.fixture
async def door() -> Door:
    door = Door()
    door.models.entries = (RANKER, LLM)
    return door


def with_worker(door: Door, **said: bytes) -> None:
    door.servers.ready = [Presence(process="t-0", role="worker", incarnation="1", region="local", state=READY,
                                   pools=["ranker", "tiny"])]  # fmt: skip
    for op, answer in said.items():
        door.servers.said["team/ranker", op, ""] = answer


def kserve_error(call: Call) -> str:
    decoded: dict[str, Any] = msgspec.json.decode(call.body)
    assert set(decoded) == {"error"}
    assert isinstance(decoded["error"], str)
    assert decoded["error"]
    return decoded["error"]


@pytest.mark.parametrize(
    ("path", "worker_s"),
    [
        ("/v2/models/ranker/infer", "/v2/models/team/ranker/infer"),
        ("/v2/models/team/ranker/infer", "/v2/models/team/ranker/infer"),
        ("/v2/models/ranker/versions/3/infer", "/v2/models/team/ranker/versions/3/infer"),
        ("/v2/models/ranker/infer/", "/v2/models/team/ranker/infer"),
    ],
)
async def test_a_request_goes_to_the_worker_as_it_came(door: Door, path: str, worker_s: str) -> None:
    door.admitter.script = lambda engine: (engine.begin(), engine.finish(200, b'{"model_name":"m","outputs":[]}'))
    call = await door.post(path, BODY, **{"x-request-id": "r7", "x-inferbus-deadline-ms": "500"}).done()
    engine = await door.admitter.next()
    assert (engine.ask.path, engine.ask.task, engine.ask.json_bytes) == (worker_s, "infer", 0)
    assert engine.ask.body == msgspec.json.encode(BODY)
    assert (engine.ask.request_id, engine.ask.deadline_s, engine.ask.streamed) == ("r7", 0.5, False)
    assert call.status == 200
    assert (call.headers["content-type"], call.headers["x-request-id"]) == ("application/json", "r7")
    assert "inference-header-content-length" not in call.headers


async def test_binary_tensors_pass_both_ways_with_the_length_of_the_json(door: Door) -> None:
    answer = b'{"model_name":"m"}\1\2\3\4'
    door.admitter.script = lambda engine: engine.finish(200, answer, "application/octet-stream; json-bytes=18")
    headers = {"inference-header-content-length": str(JSON_BYTES), "content-type": "application/octet-stream"}
    call = await door.post(INFER, BINARY, **headers).done()
    engine = await door.admitter.next()
    assert (engine.ask.body, engine.ask.json_bytes) == (BINARY, JSON_BYTES)
    assert engine.ask.content_type == "application/octet-stream"
    assert call.body == answer
    assert call.headers["inference-header-content-length"] == "18"
    assert call.headers["content-type"] == "application/octet-stream"
    assert call.headers["content-length"] == "22"


@pytest.mark.parametrize("length", ["-1", "x", "9" * 13, str(len(BINARY) + 1)])
async def test_a_length_of_the_json_that_cannot_be_is_refused(door: Door, length: str) -> None:
    call = await door.post(INFER, BINARY, **{"inference-header-content-length": length}).done()
    assert call.status == 400
    assert "Inference-Header-Content-Length" in kserve_error(call)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no such model"), 404),
        (Unsupported("no"), 422),
        (Forbidden("no"), 403),
        (TooLarge("9 bytes, the limit is 8"), 413),
        (RateLimited("over", retry_after_s=7), 429),
        (Overloaded("full", retry_after_s=7), 503),
    ],
)
async def test_what_is_not_admitted_is_said_in_kserve_s_form(door: Door, error: InferbusError, status: int) -> None:
    door.admitter.refuse = error
    call = await door.post(INFER, BODY).done()
    assert (call.status, kserve_error(call)) == (status, error.message)
    assert call.headers.get("retry-after") == ("7" if status in (429, 503) else None)


@pytest.mark.parametrize(("error", "status"), [(DeadlineWhileQueued("late"), 503), (DeadlineWhileRunning("late"), 504)])
async def test_an_end_by_the_platform_too(door: Door, error: InferbusError, status: int) -> None:
    def script(engine: FakeEngine) -> None:
        engine.begin()
        engine.fail(error)

    door.admitter.script = script
    call = await door.post(INFER, BODY).done()
    assert (call.status, kserve_error(call)) == (status, "late")


async def test_what_the_server_refuses_passes_as_it_is(door: Door) -> None:
    door.admitter.script = lambda engine: engine.finish(400, b'{"error":"input `x`: expected FP32, got INT64"}')
    call = await door.post(INFER, BODY).done()
    assert (call.status, kserve_error(call)) == (400, "input `x`: expected FP32, got INT64")


async def test_without_a_key_nothing_but_health(door: Door) -> None:
    with_worker(door)
    for method, path in [("POST", INFER), ("GET", "/v2/models/ranker"), ("POST", "/v2/repository/index")]:
        call = await door.call(method, path, b"{}", {}).done()
        assert call.status == 401
        assert "key" in kserve_error(call)
        assert call.headers["www-authenticate"] == "Bearer"
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert (await door.call("GET", path, b"", {}).done()).status == 200


async def test_ready_says_no_while_the_door_cannot_serve(door: Door) -> None:
    door.not_ready = "the bus is not reachable"
    call = await door.get("/v2/health/ready").done()
    assert (call.status, kserve_error(call)) == (503, "the bus is not reachable")
    assert (await door.get("/v2/health/live").done()).status == 200


async def test_streams_of_decoupled_models_are_events(door: Door) -> None:
    def script(engine: FakeEngine) -> None:
        engine.begin()
        engine.chunk(b'data: {"text_output":"a"}\n\n')
        engine.finish()

    door.admitter.script = script
    call = await door.post("/v2/models/ranker/generate_stream", {"text_input": "x"}).done()
    engine = await door.admitter.next()
    assert engine.ask.streamed
    assert engine.ask.path == "/v2/models/team/ranker/generate_stream"
    assert call.headers["content-type"].startswith("text/event-stream")
    assert call.body == b'data: {"text_output":"a"}\n\n'


async def test_what_a_server_says_of_a_model_is_told(door: Door) -> None:
    with_worker(door, metadata=b'{"name":"ranker"}', config=b'{"max_batch_size":8}', ready=b'{"ready":true}',
                stats=b'{"model_stats":[{"name":"ranker"}]}')  # fmt: skip
    door.servers.said["team/ranker", "metadata", "2"] = b'{"versions":["2"]}'
    for path, body in {
        "/v2/models/ranker": b'{"name":"ranker"}',
        "/v2/models/ranker/versions/2": b'{"versions":["2"]}',
        "/v2/models/ranker/config": b'{"max_batch_size":8}',
        "/v2/models/team/ranker/stats": b'{"model_stats":[{"name":"ranker"}]}',
        "/v2/models/stats": b'{"model_stats":[{"name":"ranker"}]}',
        "/v2/models/ranker/ready": b"",
        "/v2/models/tiny/ready": b"",
    }.items():
        call = await door.get(path).done()
        assert (call.status, call.body) == (200, body), path
    call = await door.call("POST", "/v2/repository/index", b"", {"authorization": "Bearer ib-1-secret"}).done()
    assert msgspec.json.decode(call.body) == [{"name": "team/ranker", "state": "READY"}]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/unknown", 404),
        ("/v2/models/unknown/ready", 404),
        ("/v2/models/ranker/versions/9", 404),
        ("/v2/models/ranker/versions/9/ready", 503),
        ("/v2/models/tiny", 422),
        ("/v2/models/ranker/infer", 404),
        ("/v2/what", 404),
        ("/v2/models/ranker/config", 404),
    ],
)
async def test_what_there_is_not_is_an_error_in_kserve_s_form(door: Door, path: str, status: int) -> None:
    with_worker(door)
    call = await door.get(path).done()
    assert call.status == status
    kserve_error(call)


async def test_a_post_elsewhere_and_a_wrong_method_too(door: Door) -> None:
    for method, path, status in [("POST", "/v2/models/ranker", 404), ("PUT", "/v2/models/ranker", 405)]:
        call = await door.call(method, path, b"{}", {"authorization": "Bearer ib-1-secret"}).done()
        assert call.status == status
        kserve_error(call)


async def test_without_a_worker_a_model_is_there_but_not_ready(door: Door) -> None:
    for path in ("/v2/models/ranker/ready", "/v2/models/ranker"):
        call = await door.get(path).done()
        assert call.status == 503
        kserve_error(call)
    call = await door.call("POST", "/v2/repository/index", b"", {"authorization": "Bearer ib-1-secret"}).done()
    assert msgspec.json.decode(call.body) == [{"name": "team/ranker", "state": "UNAVAILABLE"}]


async def test_what_is_counted_has_one_path_for_all_models(door: Door) -> None:
    door.admitter.script = lambda engine: engine.finish(200, b"{}")
    await door.post(INFER, BODY).done()
    labels = {
        (sample.labels.get("path"), sample.labels.get("model"))
        for family in door.registry.collect()
        for sample in family.samples
        if "path" in sample.labels
    }
    assert ("/v2/models/{model}/infer", "team/ranker") in labels


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("size", [1, 100_000])
async def test_packed_bodies_are_unpacked(door: Door, encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    door.admitter.script = lambda engine: engine.finish(200, b"{}")
    body = BINARY + random.Random(1).randbytes(size)
    headers = {"inference-header-content-length": str(JSON_BYTES), "content-encoding": encoding}
    assert (await door.post(INFER, pack(body), **headers).done()).status == 200
    engine = await door.admitter.next()
    assert (engine.ask.body, engine.ask.json_bytes) == (body, JSON_BYTES)


async def test_what_unpacks_to_too_much_or_to_nothing_is_refused() -> None:
    door = Door(GatewaySettings(max_body_bytes=100_000))
    door.models.entries = (RANKER,)
    packed = gzip.compress(bytes(100_001))
    for body, encoding, status in [
        (packed, "gzip", 413),
        (gzip.compress(b"{}")[:-3], "gzip", 400),
        (gzip.compress(b"{}") + b"more", "gzip", 400),
        (b"{}", "gzip", 400),
        (b"{}", "br", 400),
    ]:
        call = await door.post(INFER, body, **{"content-encoding": encoding}).done()
        assert call.status == status
        kserve_error(call)
    assert door.admitter.admitted.empty()
