"""One platform for all tests that leave it whole. Tests that break things have their own (test_breakage.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI
from tests.running_platform import RunningPlatform

PATIENCE_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:  # the hook is given every test of the run
            item.add_marker(pytest.mark.timeout(PATIENCE_S))  # the first ones wait for engines to start


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A chat worker and an embedding worker, both with real vLLM."""
    with RunningPlatform(tmp_path_factory.mktemp("platform"), "--embed") as platform:
        yield platform


@pytest.fixture
def client(platform: RunningPlatform) -> Iterator[OpenAI]:
    with platform.openai() as client:
        yield client


@pytest.fixture
async def async_client(platform: RunningPlatform) -> AsyncIterator[AsyncOpenAI]:
    async with platform.async_openai() as client:
        yield client
