"""What a stream that waits is told: where it stands, and for how long it may have to wait."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.main_path import HELLO, MODEL, OPEN, MainPath, answer_of, ask

from inferbus.testing import eventually

ENDLESS = 100_000
COMMENT = re.compile(r": queued position=(\d+)(?: expected_wait_s=([\d.]+))?")


class Waiting:
    """A streamed request, and all it was told so far."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @property
    def places(self) -> list[tuple[int, float | None]]:
        found = [match for event in self.events if (match := COMMENT.fullmatch(event))]
        return [(int(match[1]), float(match[2]) if match[2] else None) for match in found]

    @property
    def position(self) -> int:
        return self.places[-1][0] if self.places else 0

    async def read(self, http: httpx.AsyncClient, tokens: int) -> None:
        body = {"model": MODEL, "messages": HELLO, "max_tokens": tokens, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line:
                    self.events.append(line)


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_slots=1, simulator_itl_s=0.02)
        await path.gateway(comment_every_s=0.3)
        yield path


@asynccontextmanager
async def waiting(
    path: MainPath, http: httpx.AsyncClient, tokens: int, count: int = 1, *, in_order: bool = True
) -> AsyncIterator[list[Waiting]]:
    """Open streams; `in_order`: one after the other, so that they stand like that."""
    streams = [Waiting() for _ in range(count)]
    already = path.figure("gateway-0", OPEN)
    tasks = []
    for stream in streams:
        tasks.append(asyncio.create_task(stream.read(http, tokens)))
        if in_order:
            await eventually(lambda: path.figure("gateway-0", OPEN) == already + len(tasks))
    try:
        yield streams
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_everybody_is_told_a_place_that_goes_down(path: MainPath) -> None:
    headers = {"Authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=60) as http, path.client() as client:
        async with waiting(path, http, ENDLESS):
            await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1)
            async with waiting(path, http, 20, 3) as queue:
                await eventually(lambda: [one.position for one in queue] == [1, 2, 3], within_s=10)
                assert all(one.places[-1][1] is None for one in queue), "nothing has ended: nothing is known"
                assert all(re.fullmatch(r": queued position=\d+", one.events[0]) for one in queue)
                unstreamed = asyncio.create_task(ask(client, 5))
                await eventually(lambda: path.figure("gateway-0", OPEN) == 5)
        # All have gone but the one that is not streamed: it gets its turn, and was told nothing.
        assert await asyncio.wait_for(unstreamed, 10) == answer_of(5)
    await path.settled()


async def test_the_wait_follows_how_fast_requests_end(path: MainPath) -> None:
    headers = {"Authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=60) as http, path.client() as client:
        for _ in range(4):
            assert await ask(client, 20) == answer_of(20)  # 0.4 s each
        async with waiting(path, http, 20, 8, in_order=False) as queue:
            await eventually(lambda: all("data: [DONE]" in one.events for one in queue), within_s=20)
    told = [one for one in queue if one.places]
    assert len(told) >= 4, "all but the first few waited for more than a second"
    for one in told:
        positions = [position for position, _ in one.places]
        assert positions[-1] <= positions[0]
        assert all(wait is not None and 0.2 < wait < 2 * position for position, wait in one.places)
    await path.settled()
