"""An engine that embeds: MiniLM from its package."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.engine.chat_bodies import chat
from tests.engine.conftest import make_embedder
from tests.engine.waiting import until
from tests.recording_sink import Finish, submit

from inferbus_llm_worker.adapters.vllm.engine import VllmEngine

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedder() -> AsyncIterator[VllmEngine]:
    engine = make_embedder()
    await engine.start()
    yield engine
    await engine.stop()


async def ask(engine: VllmEngine, path: str, **body: Any) -> Finish:
    sink = await submit(engine, {"model": "all-minilm-l6-v2"} | body, request_id="embed", path=path)
    return await sink.finish()


async def test_embeddings(embedder: VllmEngine) -> None:
    inputs = ["How do I open a file?", "Files are opened with open().", "Bananas are yellow."]
    finish = await ask(embedder, "/v1/embeddings", input=inputs)
    question, answer, other = [row["embedding"] for row in finish.json()["data"]]
    assert len(question) == 384
    assert math.isclose(math.hypot(*question), 1.0, abs_tol=1e-3)
    assert dot(question, answer) > 0.5 > dot(question, other)
    assert finish.usage.prompt_tokens == finish.json()["usage"]["prompt_tokens"] > 0
    assert finish.usage.completion_tokens == 0
    await until(lambda: embedder.unfinished == 0)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_base64(embedder: VllmEngine) -> None:
    finish = await ask(embedder, "/v1/embeddings", input="one", encoding_format="base64")
    assert isinstance(finish.json()["data"][0]["embedding"], str)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"text_1": "open a file", "text_2": ["files", "bananas"]}),
        ("/v1/rerank", {"query": "open a file", "documents": ["files", "bananas"]}),
        ("/pooling", {"input": "open a file", "task": "embed"}),
    ],
)
async def test_other_paths(embedder: VllmEngine, path: str, body: dict[str, Any]) -> None:
    finish = await ask(embedder, path, **body)
    assert finish.status == 200, finish.data
    assert finish.usage.prompt_tokens == finish.json()["usage"]["prompt_tokens"] > 0


async def test_mistakes(embedder: VllmEngine) -> None:
    assert (await ask(embedder, "/v1/embeddings", input="x", dimensions=8)).status == 400
    assert (await ask(embedder, "/v1/embeddings", input="word " * 1000)).status == 400
    for streamed in (True, False):
        finish = await (await submit(embedder, chat(stream=streamed), request_id="chat")).finish()
        assert finish.status in (400, 404, 501)
