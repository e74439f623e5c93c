"""KServe v2 through the whole platform: the vendor's own client, a gateway process, the real bus, a worker of tensors."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from tests.connected.tensor_worker import TensorWorker, tensor_worker
from tests.connected.test_quota import set_limits
from tests.connected.test_quota_doors import early_in_a_minute
from tests.connected.vendor_client import Vendor, tensor
from tests.main_path import MainPath
from tritonclient.http import InferRequestedOutput
from tritonclient.utils import InferenceServerException

from inferbus import routes
from inferbus.bus.stored import read_stored
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.contracts.usage import UsageEvent
from inferbus.errors import InvalidRequest, NotFound
from inferbus.kserve import arrays
from inferbus.testing import eventually

ENTRY = ModelEntry(
    name="ranker", pool="rank", runtime="triton", aliases=["r"], tasks=("infer", "embeddings"),
    limits=Limits(max_body_bytes=64 * 1024 * 1024),
)  # fmt: skip


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path, ENTRY) as path:
        await path.gateway()
        yield path


@pytest.fixture
async def worker(path: MainPath) -> AsyncIterator[TensorWorker]:
    async with tensor_worker(path.nats, pool=ENTRY.pool) as worker:
        yield worker


async def test_the_vendor_s_client_works_unchanged(path: MainPath, worker: TensorWorker) -> None:
    vendor = Vendor(path.url, path.key)
    assert await vendor("is_server_live")
    assert await vendor("is_server_ready")
    assert await vendor("is_model_ready", "r")
    assert (await vendor("get_server_metadata"))["name"] == "inferbus"
    assert (await vendor("get_model_metadata", "r"))["inputs"][0]["shape"] == [-1, 2]
    assert (await vendor("get_model_config", "ranker"))["max_batch_size"] == 64
    assert (await vendor("get_inference_statistics"))["model_stats"][0]["inference_count"] == 7
    assert (await vendor("get_model_repository_index"))[0] == {"name": "ranker", "state": "READY"}
    with pytest.raises(InferenceServerException, match="unknown version 9"):
        await vendor("get_model_metadata", "ranker", "9")


WAYS = list(itertools.product(["ranker", "r"], [True, False], [True, False]))


async def test_tensors_go_in_and_come_out(path: MainPath, worker: TensorWorker) -> None:
    values = np.array([[0.5, -1.0], [3.25, 1e30]], np.float32)
    words = np.array(["häß".encode(), b""], np.object_)
    vendor = Vendor(path.url, path.key)
    for model, binary_in, binary_out in WAYS:
        answer = await vendor(
            "infer", model, [tensor(values, binary=binary_in), tensor(words, "BYTES", binary=binary_in, name="w")],
            outputs=[InferRequestedOutput(name, binary_data=binary_out) for name in ("x_out", "w_out")], request_id="7",
        )  # fmt: skip
        np.testing.assert_array_equal(answer.as_numpy("x_out"), 2 * values)
        found = [word if isinstance(word, bytes) else word.encode() for word in answer.as_numpy("w_out")]
        assert found == ["Häß".encode(), b""]
        assert (answer.get_response()["id"], answer.get_response()["model_name"]) == ("7", "ranker")
    assert all(call.work.model == "ranker" for call in worker.side.engine.calls)


async def test_twenty_megabytes_each_way(path: MainPath, worker: TensorWorker) -> None:
    """In by ticket, out by ticket."""
    values = np.arange(5_000_000, dtype=np.uint32).reshape(1, -1)
    answer = await Vendor(path.url, path.key)("infer", "ranker", [tensor(values, "UINT32")])
    np.testing.assert_array_equal(answer.as_numpy("x_out"), values)


async def test_bad_input_is_named_and_costs_nobody_a_worker(path: MainPath, worker: TensorWorker) -> None:
    vendor = Vendor(path.url, path.key)
    wrong = tensor(np.zeros((1, 2), np.float32))
    wrong._shape = [1, 3]
    with pytest.raises(InferenceServerException, match=r"tensor `x`: FP32 of shape \[1,3\] is 12 bytes, got 8"):
        await vendor("infer", "ranker", [wrong])
    with pytest.raises(InferenceServerException, match="unknown version"):
        await vendor("infer", "ranker", [tensor(np.zeros((1, 2), np.float32))], model_version="9")
    with pytest.raises(InferenceServerException, match="does not exist"):
        await vendor("infer", "unknown", [tensor(np.zeros((1, 2), np.float32))])
    answer = await vendor("infer", "ranker", [tensor(np.ones((1, 2), np.float32))])
    assert answer.as_numpy("x_out").tolist() == [[2.0, 2.0]]

    async def is_empty() -> bool:
        return await path.stored() == 0

    await eventually(is_empty)


async def test_streams_and_embeddings_pass_through(path: MainPath, worker: TensorWorker) -> None:
    headers = {"Authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30) as client:
        events = await client.post("/v2/models/ranker/generate_stream", json={"text_input": "x"})
        assert events.headers["content-type"].startswith("text/event-stream")
        assert [line for line in events.text.split("\n\n") if line] == [
            f'data: {{"model_name":"m","n":{number}}}' for number in range(3)
        ]
        embedded = await client.post("/v1/embeddings", json={"model": "r", "input": ["a"]})
        assert embedded.json() == {"object": "list", "data": [], "model": "ranker"}
        gone = await client.post("/v2/models/ranker/infer", content=b"{}", headers={"Authorization": "Bearer ib-x-y"})
        assert (gone.status_code, list(gone.json())) == (401, ["error"])


async def test_metadata_outlives_the_workers(path: MainPath, worker: TensorWorker) -> None:
    """A pool scaled to zero still has its models; a version that is loaded shows within moments."""
    vendor = Vendor(path.url, path.key)
    assert (await vendor("get_model_metadata", "ranker"))["versions"] == ["1"]
    worker.versions.append("2")

    async def shows() -> bool:
        return bool((await vendor("get_model_metadata", "ranker"))["versions"] == ["1", "2"])

    await eventually(shows, within_s=20)
    await worker.stop()

    async def is_gone() -> bool:
        return not await vendor("is_model_ready", "ranker")

    await eventually(is_gone, within_s=20)
    assert (await vendor("get_model_metadata", "ranker"))["versions"] == ["1", "2"]


async def test_the_sdk_infers_over_the_bus(path: MainPath, worker: TensorWorker) -> None:
    rows = np.arange(200, dtype=np.float32).reshape(100, 2)
    async with path.producer() as client:
        answer = await client.infer("ranker", {"x": rows, "w": ["häß"] * 100}, request_id="r1")
        assert set(answer) == {"x_out", "w_out"}
        np.testing.assert_array_equal(answer["x_out"], 2 * rows)
        assert answer["w_out"].tolist() == ["Häß".encode()] * 100
        assert list(await client.infer("r", {"x": rows, "w": ["a"]}, outputs=["w_out"])) == ["w_out"]
        kept = await client.infer("ranker", {"x": rows}, deliver="results", idempotency_key="k")
        again = await client.infer("ranker", {"x": rows}, deliver="results", idempotency_key="k")
        np.testing.assert_array_equal(kept["x_out"], again["x_out"])
        wide = np.ones((1_500_000, 1), np.float32)  # 6 MB in one message, 24 MB back in several
        large = await client.infer("ranker", {"x": wide}, parameters={"repeat": 4})
        assert large["x_out"].shape == (6_000_000, 1)
        assert float(large["x_out"].sum()) == 12_000_000.0
        with pytest.raises(NotFound, match="unknown version"):
            await client.infer("ranker", {"x": rows}, version="9")
        with pytest.raises(NotFound, match="does not exist"):
            await client.infer("unknown", {"x": rows})
        with pytest.raises(InvalidRequest, match="complex128 has no tensor type"):
            await client.infer("ranker", {"x": np.ones(2, np.complex128)})
        with pytest.raises(InvalidRequest, match="unknown options"):
            await client.infer("ranker", {"x": rows}, max_tokens=5)
    assert sum(call.work.path.endswith("/infer") for call in worker.side.engine.calls) == 5  # the kept one ran once


async def test_rows_are_what_limits_and_the_ledger_count(tmp_path: Path) -> None:
    async with MainPath(tmp_path, ENTRY) as path:
        await set_limits(path.nats, "org.dev", tokens_per_minute=100)
        await path.gateway()
        await early_in_a_minute()
        async with (
            tensor_worker(path.nats, pool=ENTRY.pool),
            httpx.AsyncClient(base_url=path.url, timeout=30) as client,
        ):
            headers = {"Authorization": f"Bearer {path.key}"}
            body = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [60], "data": [1] * 60}]}
            taken = await client.post("/v2/models/r/infer", json=body, headers=headers)
            assert (taken.status_code, taken.headers["x-ratelimit-limit-tokens"]) == (200, "100")
            refused = await client.post("/v2/models/r/infer", json=body, headers=headers)
            assert (refused.status_code, list(refused.json())) == (429, ["error"])
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "100 tokens per minute" in refused.json()["error"]
        operator = await path.nats.connect("operator")
        stored = await read_stored(operator, routes.STREAM_USAGE, routes.SUBJECTS_USAGE)
        await operator.close()
    (event,) = [msgspec.json.decode(one.data, type=UsageEvent) for one in stored]
    assert (event.model, event.task, event.pool, event.prompt_tokens, event.completion_tokens) == (
        "ranker", "infer", "rank", 60, 0,
    )  # fmt: skip


async def test_a_kept_answer_is_had_again_by_asking_again(path: MainPath, worker: TensorWorker) -> None:
    body, json_bytes = arrays.write({"x": np.ones((2, 2), np.float32)})
    headers = {
        "Authorization": f"Bearer {path.key}", "X-Request-Id": "kept", "X-Inferbus-Durable": "true",
        "Inference-Header-Content-Length": str(json_bytes),
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30) as client:
        for replayed in (None, "true"):
            answer = await client.post("/v2/models/r/infer", content=body)
            assert (answer.status_code, answer.headers.get("x-inferbus-replayed")) == (200, replayed)
            length = int(answer.headers["inference-header-content-length"])
            assert arrays.read(answer.content, length)["x_out"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
        state = (await client.get("/v1/requests/kept")).json()
        assert (state["status"], state["model"], state["usage"]["prompt_tokens"]) == ("completed", "r", 2)
        other = await client.post("/v2/models/r/versions/1/infer", content=body)
        assert (other.status_code, list(other.json())) == (409, ["error"])
    assert len(worker.side.engine.calls) == 1
