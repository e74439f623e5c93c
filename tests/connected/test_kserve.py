"""KServe v2 through the whole platform: the vendor's own client, a gateway process, the real bus, a worker of tensors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.connected.tensor_worker import TensorWorker, tensor_worker
from tests.main_path import MainPath
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from inferbus.contracts.models import Limits, ModelEntry

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


class Vendor:
    """The vendor's client in a thread, since it blocks; it knows the gateway's address and a key, and nothing else."""

    def __init__(self, path: MainPath) -> None:
        self._client = InferenceServerClient(path.url.removeprefix("http://"), network_timeout=30.0)
        self._headers = {"Authorization": f"Bearer {path.key}"}

    async def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, name), *args, headers=self._headers, **options)


def tensor(values: np.ndarray, datatype: str = "FP32", *, binary: bool = True, name: str = "x") -> InferInput:
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


async def test_the_vendor_s_client_works_unchanged(path: MainPath, worker: TensorWorker) -> None:
    vendor = Vendor(path)
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


@pytest.mark.parametrize("model", ["ranker", "r"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
async def test_tensors_go_in_and_come_out(
    path: MainPath, worker: TensorWorker, model: str, binary_in: bool, binary_out: bool
) -> None:
    values = np.array([[0.5, -1.0], [3.25, 1e30]], np.float32)
    words = np.array(["häß", ""], np.object_)
    answer = await Vendor(path)(
        "infer", model, [tensor(values, binary=binary_in), tensor(words, "BYTES", binary=binary_in, name="w")],
        outputs=[InferRequestedOutput(name, binary_data=binary_out) for name in ("x_out", "w_out")], request_id="7",
    )  # fmt: skip
    np.testing.assert_array_equal(answer.as_numpy("x_out"), 2 * values)
    if binary_in == binary_out:  # turned around byte by byte, it is text only where nothing has two
        assert [word[::-1].decode() for word in answer.as_numpy("w_out")][1] == ""
    assert answer.get_response()["id"] == "7"
    assert answer.get_response()["model_name"] == "ranker"
