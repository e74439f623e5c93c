"""`inferbus up --triton`: classic models on a whole platform, asked with NVIDIA's client, restarted and killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as kserve
from tests.process_tree import descendants
from tests.running_platform import RunningPlatform

from inferbus.testing import eventually
from inferbus_triton_worker.adapters.leftovers import MEMORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with RunningPlatform(tmp_path_factory.mktemp("triton") / "home", "--simulator", "--triton", "1") as platform:
        yield platform


@pytest.fixture
def client(platform: RunningPlatform) -> Iterator[kserve.InferenceServerClient]:
    client = kserve.InferenceServerClient(
        platform.url.removeprefix("http://"), connection_timeout=120, network_timeout=120
    )
    yield client
    client.close()


def rank(client: kserve.InferenceServerClient, platform: RunningPlatform, **headers: str) -> list[float]:
    rows = np.linspace(-1, 1, 4 * 32, dtype=np.float32).reshape(4, 32)
    tensor = kserve.InferInput("FEATURES", [4, 32], "FP32")
    tensor.set_data_from_numpy(rows)
    headers = {"Authorization": f"Bearer {platform.key}", **headers}
    scores: list[float] = client.infer("ranker", [tensor], headers=headers).as_numpy("SCORE").ravel().tolist()
    return scores


def test_every_model_is_served(platform: RunningPlatform, client: kserve.InferenceServerClient) -> None:
    assert client.is_server_ready()
    assert len(set(rank(client, platform))) > 1
    embedded = platform.openai().embeddings.create(
        model="minilm-onnx", input=["a cat on a sofa", "a kitten on a couch"]
    )
    first, second = (np.array(one.embedding) for one in embedded.data)
    assert len(first) == 384
    assert embedded.usage.prompt_tokens == 14  # each with its two marks, as in LLM pools; not the two texts
    assert first @ second > 0.5


def test_a_killed_worker_leaves_nothing_and_loses_nothing(
    platform: RunningPlatform, client: kserve.InferenceServerClient
) -> None:
    before = rank(client, platform)
    old = descendants(platform.pid("triton-0"))
    assert any("bin/tritonserver" in one.command for one in old)
    os.kill(platform.pid("triton-0"), signal.SIGKILL)
    durable = {"X-Inferbus-Durable": "true"}
    assert rank(client, platform, **durable) == before  # asked while nobody serves, answered by the next one
    platform.until(lambda: not any(one.alive() for one in old), 30)


def test_a_rolling_restart_relieves_it(platform: RunningPlatform, client: kserve.InferenceServerClient) -> None:
    before = rank(client, platform)
    (name,) = (one.name for one in platform.state.processes if one.role == "triton-worker")
    said = platform.command("restart", name).stdout
    assert "alone at its work" in said
    assert rank(client, platform) == before


def regions(platform: RunningPlatform) -> str:
    """Give the pattern of the names of the server's shared memory."""
    (server,) = (one for one in platform.processes() if "bin/tritonserver" in one.command)
    return server.command.partition("shm-region-prefix-name=")[2].split()[0] + "*"


def test_no_memory_is_left(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path / "home", "--simulator", "--triton", "1") as platform:
        pattern = regions(platform)
        assert list(MEMORY.glob(pattern))
    assert not list(MEMORY.glob(pattern))


def test_nothing_is_left_of_a_killed_supervisor(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path / "home", "--simulator", "--triton", "1") as platform:
        pattern, everybody = regions(platform), platform.processes()
        platform.signal(signal.SIGKILL)
        platform.wait()
        asyncio.run(eventually(lambda: not any(one.alive() for one in everybody), within_s=60))
        asyncio.run(eventually(lambda: not list(MEMORY.glob(pattern)), within_s=60))
