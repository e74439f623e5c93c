"""KServe v2 from end to end: the vendor's client and the SDK, a gateway process, the bus, a worker, a real Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.connected.triton_models import COUNT, COUNT_CONFIG, VECTORS, VECTORS_CONFIG, add_model
from tests.connected.vendor_client import Vendor, tensor
from tests.triton_path import TritonPath
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from inferbus.errors import InvalidRequest
from inferbus.testing import eventually

pytestmark = pytest.mark.timeout(240)


class Whole:
    """The platform, and the address of its HTTP door."""

    def __init__(self, path: TritonPath, url: str) -> None:
        self.path = path
        self.url = url
        self.vendor = Vendor(url, path.key)


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    async with TritonPath(tmp_path, "double", "count", "vectors") as path:
        add_model(path.repository, "double")
        add_model(path.repository, "count", COUNT, COUNT_CONFIG)
        add_model(path.repository, "vectors", VECTORS, VECTORS_CONFIG)
        await path.triton()
        yield Whole(path, await path.other_gateway())


def rows(*values: list[float]) -> InferInput:
    return tensor(np.array(values, np.float32), name="X")


async def test_everything_a_client_does(whole: Whole) -> None:
    vendor = whole.vendor

    async def is_ready() -> bool:
        return bool(await vendor("is_model_ready", "double"))

    await eventually(is_ready, within_s=30)
    assert not await vendor("is_model_ready", "double", "9")
    metadata = await vendor("get_model_metadata", "double")
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert (await vendor("get_model_config", "double"))["max_batch_size"] == 8
    for binary in (True, False):
        x = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
        given = [tensor(x, name="X", binary=binary)]
        answer = await vendor("infer", "double", given, outputs=[InferRequestedOutput("Y", binary_data=binary)])
        np.testing.assert_array_equal(answer.as_numpy("Y"), 2 * x)
    answer = await vendor("infer", "double", [rows([1, 2, 3, 4])], model_version="1", request_id="mine")
    assert (answer.get_response()["model_version"], answer.get_response()["id"]) == ("1", "mine")
    best = await vendor("infer", "double", [rows([1, 9, 3, 4])], outputs=[InferRequestedOutput("Y", class_count=1)])
    assert best.as_numpy("Y").ravel()[0].startswith(b"18.0")
    stats = (await vendor("get_inference_statistics", "double"))["model_stats"][0]
    assert int(stats["inference_count"]) >= 4


X = tensor(np.zeros((1, 4), np.float32), name="X")
MISTAKES: list[tuple[list[InferInput], dict[str, Any], str]] = [
    ([tensor(np.zeros((1, 3), np.float32), name="X")], {}, "X"),
    ([tensor(np.zeros((1, 4), np.float64), "FP64", name="X")], {}, "FP64"),
    ([tensor(np.zeros((1, 4), np.float32), name="Z")], {}, "Z"),
    ([tensor(np.zeros((9, 4), np.float32), name="X")], {}, "9"),
    ([X, tensor(np.zeros((1, 4), np.float32), name="Z")], {}, "Z"),
    ([X], {"model_version": "7"}, "7"),
    ([X], {"outputs": [InferRequestedOutput("W")]}, "W"),
]


async def test_mistakes_are_named(whole: Whole) -> None:
    for given, options, text in MISTAKES:
        with pytest.raises(InferenceServerException) as caught:
            await whole.vendor("infer", "double", given, **options)
        assert caught.value.status() in ("400", "404")
        assert text in caught.value.message()


GENERATED = (
    ("double", {"X": [1, 2, 3, 4]}, {"model_name": "double", "model_version": "1", "Y": [2.0, 4.0, 6.0, 8.0]}),
    ("count", {"N": 1, "id": "a"}, {"model_name": "count", "model_version": "1", "TOK": "tok0"}),
)
NOT_GENERATED = (
    ("count", {"N": 3}, 422, "more than one answer: ask generate_stream"),
    ("count", {"N": 0}, 422, "no answer"),
    ("count", {"N": "three"}, 400, "INT32"),
    ("count", {"Z": 3}, 400, "`Z`: model `count` has no such input, it has `N`"),
    ("count", {}, 400, "N"),
    ("double", {"X": [1, 2]}, 400, "X"),
    ("nobody", {"X": [1, 2]}, 404, "nobody"),
)


async def test_generate_gives_the_one_answer_or_says_why_not(whole: Whole) -> None:
    headers = {"Authorization": f"Bearer {whole.path.key}"}
    async with httpx.AsyncClient(base_url=whole.url, headers=headers, timeout=60) as client:
        for model, body, expected in GENERATED:
            answer = await client.post(f"/v2/models/{model}/generate", json=body)
            assert (answer.status_code, answer.json()) == (200, expected)
        tensors = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
        answer = await client.post("/v2/models/double/versions/1/generate", json=tensors)
        assert answer.json()["outputs"] == [{"name": "Y", "datatype": "FP32", "shape": [1, 4], "data": [2, 4, 6, 8]}]
        for model, body, status, text in NOT_GENERATED:
            answer = await client.post(f"/v2/models/{model}/generate", json=body)
            assert (answer.status_code, list(answer.json()), text in answer.text) == (status, ["error"], True), (
                answer.text
            )
        for body, text in ((b"[1]", "object"), (b"{", "JSON")):
            answer = await client.post("/v2/models/double/generate", content=body)
            assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text
        assert (await client.get("/v2/models/double/generate")).status_code == 404


async def test_streams_embeddings_and_the_sdk(whole: Whole) -> None:
    headers = {"Authorization": f"Bearer {whole.path.key}"}
    async with httpx.AsyncClient(base_url=whole.url, headers=headers, timeout=60) as client:
        events = await client.post("/v2/models/count/generate_stream", json={"N": 3})
        assert events.status_code == 200, events.text
        assert [f"tok{n}" in events.text for n in range(4)] == [True, True, True, False]
        body = {"model": "vectors", "input": ["a b", "ccc"]}
        embedded = await client.post("/v1/embeddings", json=body)
        assert [row["embedding"] for row in embedded.json()["data"]] == [[3.0, 1.0, 1.0], [3.0, 0.0, 1.0]]
    async with whole.path.producer() as producer:
        x = np.arange(32, dtype=np.float32).reshape(8, 4)
        np.testing.assert_array_equal((await producer.infer("double", {"X": x}))["Y"], 2 * x)
        assert await producer.embed("vectors", ["a b", "ccc"]) == [[3.0, 1.0, 1.0], [3.0, 0.0, 1.0]]
        with pytest.raises(InvalidRequest, match="X"):
            await producer.infer("double", {"X": x[:, :3]})
