"""The models of services/triton-worker/models on the real server: what is committed loads, and answers what it should."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from inferbus_triton_worker.adapters.server import ManagedServer, ServerOptions

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "services/triton-worker/models/repository"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SENTENCES = [
    b"Open a zip archive and extract all members to a directory",
    b"Wait until the lock is released by another thread",
    b"Return the median of data",
]
# By torch and transformers, from the same weights.
EMBEDDED = [
    [-0.0008909106836654246, 0.09020292013883591, -0.06005511432886124, 0.10234444588422775],
    [-0.06094874069094658, -0.04116690158843994, -0.035047125071287155, -0.05584043636918068],
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[grpc.InferenceServerClient]:
    state = tmp_path_factory.mktemp("triton")
    server = ManagedServer(
        ServerOptions(environment=ROOT / ".venv-triton", repository=MODELS, state=state), dict(os.environ)
    )
    address = await server.start()
    try:
        async with grpc.InferenceServerClient(address) as one:
            yield one
    finally:
        await server.stop()


def tensor(name: str, values: np.ndarray, datatype: str) -> grpc.InferInput:
    one = grpc.InferInput(name, list(values.shape), datatype)
    one.set_data_from_numpy(values)
    return one


def texts(*given: str, name: str = "TEXT") -> grpc.InferInput:
    return tensor(name, np.array([[one] for one in given or SENTENCES], np.object_), "BYTES")


async def test_everything_is_loaded(client: grpc.InferenceServerClient) -> None:
    index = await client.get_model_repository_index(as_json=True)
    assert {one["name"] for one in index["models"]} == {folder.name for folder in MODELS.iterdir()}
    assert {one["state"] for one in index["models"]} == {"READY"}


async def test_candidate_lists_are_ranked(client: grpc.InferenceServerClient) -> None:
    rows = np.zeros((20, 32), np.float32)
    rows[:, 0] = np.linspace(-2, 2, 20)  # what shoppers like most
    scores = {}
    for version in ("1", "2", ""):
        answer = await client.infer("ranker", [tensor("FEATURES", rows, "FP32")], model_version=version)
        scores[version] = answer.as_numpy("SCORE").ravel()
        assert np.corrcoef(scores[version], rows[:, 0])[0, 1] > 0.9
    assert scores[""].tolist() == scores["2"].tolist() != scores["1"].tolist()


async def test_clicks_are_likelihoods(client: grpc.InferenceServerClient) -> None:
    rows = np.ones((2, 32), np.float32)
    rows[1, 0] += 2
    for version in ("1", "2"):
        answer = await client.infer("click", [tensor("FEATURES", rows, "FP32")], model_version=version)
        low, high = answer.as_numpy("CLICK").ravel()
        assert 0 < low < high < 1


async def test_an_ensemble_finds_topics(client: grpc.InferenceServerClient) -> None:
    answer = await client.infer("topics", [texts()])
    assert answer.as_numpy("TOPIC").ravel().tolist() == [b"files", b"concurrency", b"numbers"]
    assert answer.as_numpy("PROBABILITIES").sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    two = grpc.InferRequestedOutput("PROBABILITIES", class_count=2)
    classes = (await client.infer("topics", [texts()], outputs=[two])).as_numpy("PROBABILITIES")
    assert [row[0].split(b":")[2] for row in classes] == [b"files", b"concurrency", b"numbers"]


async def test_embeddings_are_those_of_torch(client: grpc.InferenceServerClient) -> None:
    answer = await client.infer("minilm-onnx", [texts()])
    embedded, tokens = answer.as_numpy("EMBEDDING"), answer.as_numpy("TOKENS")
    assert (tokens.dtype, tokens.shape, tokens.min() > 4) == (np.int32, (3, 1), True)
    alone = [int((await client.infer("minilm-onnx", [texts(one)])).as_numpy("TOKENS")[0, 0]) for one in SENTENCES]
    assert tokens.ravel().tolist() == alone  # padding is not counted
    assert embedded.shape == (3, 384)
    assert embedded[:2, :4] == pytest.approx(np.array(EMBEDDED), abs=1e-6)
    assert np.linalg.norm(embedded, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


async def test_the_cache_answers_what_was_asked_before(client: grpc.InferenceServerClient) -> None:
    async def executed(value: float) -> int:
        x = tensor("X", np.array([[value]], np.float32), "FP32")
        return int((await client.infer("slow_square", [x])).as_numpy("EXECUTED")[0, 0])

    first = await executed(3)
    assert [await executed(3), await executed(3)] == [first, first]
    assert await executed(4) == first + 1


async def test_words_are_streamed(client: grpc.InferenceServerClient) -> None:
    async def asked() -> AsyncIterator[dict[str, object]]:
        yield {
            "model_name": "words",
            "inputs": [tensor("text_input", np.array([b"one two three"], np.object_), "BYTES")],
        }

    answers = client.stream_infer(asked())
    words, final = [], False
    async for answer, error in answers:
        assert error is None
        words.append(answer.as_numpy("text_output")[0])
        final = answer.get_response().parameters["triton_final_response"].bool_param
        if final:
            break
    answers.cancel()
    assert words == [b"one", b"two", b"three"]
    with pytest.raises(InferenceServerException, match="decoupled"):
        await client.infer("words", [tensor("text_input", np.array([b"one"], np.object_), "BYTES")])
