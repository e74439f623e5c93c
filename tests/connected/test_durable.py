"""Durable requests over real processes: whatever dies, the events a client has joined are those of an unbroken answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.main_path import HELLO, MODEL, MainPath, answer_of

from inferbus.testing import eventually

ITL_S = 0.02
CHAT = "/v1/chat/completions"


class Reader:
    """A client of one durable stream that notes every event, and can leave and come back."""

    def __init__(self, path: MainPath, url: str) -> None:
        self._key = path.key
        self.url = url
        self.ids: list[str] = []
        self.data: list[str] = []
        self.request_id = ""
        self.ended = False
        self.error = ""

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._key}"}
        return headers | ({"Last-Event-ID": self.ids[-1]} if self.ids else {})

    @property
    def text(self) -> str:
        chunks = [json.loads(data) for data in self.data if data != "[DONE]"]
        return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])

    async def begin(self, tokens: int, *, leave_after: int = 0, **headers: str) -> None:
        """Ask; read to the end, or leave after so many events."""
        await self._read("POST", CHAT, leave_after, body(tokens), headers | {"X-Inferbus-Durable": "true"})

    async def go_on(self, url: str = "", *, leave_after: int = 0) -> None:
        """Come back, to another gateway perhaps."""
        self.url = url or self.url
        await self._read("GET", f"/v1/requests/{self.request_id}/events", leave_after)

    async def until_ended(self, urls: list[str]) -> None:
        """Come back again and again until the stream has ended."""
        async with asyncio.timeout(30):
            while not self.ended:
                urls = urls[1:] + urls[:1]
                try:
                    await self.go_on(urls[0])
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)

    async def _read(
        self, method: str, path: str, leave_after: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=30) as client,
            client.stream(method, path, content=content, headers=self.headers | (headers or {})) as response,
        ):
            self.request_id = response.headers["x-request-id"]
            if response.status_code != 200:
                self.error = (await response.aread()).decode()
                raise AssertionError(self.error)
            count = 0
            async for line in response.aiter_lines():
                self._note(line)
                count += line == ""
                if leave_after and len(self.data) >= leave_after and line == "":
                    return
        assert self.data
        assert self.data[-1] == "[DONE]"
        self.ended = True

    def _note(self, line: str) -> None:
        kind, _, value = line.partition(": ")
        if kind == "id":
            assert value not in self.ids, f"{value} came twice"
            self.ids.append(value)
        elif kind == "data":
            self.data.append(value)
        elif kind == "event":
            self.error = value


def body(tokens: int, *, stream: bool = True, **options: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": tokens, "stream": stream} | options).encode()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        yield path


async def ask_whole(path: MainPath, url: str, tokens: int, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        auth = {"Authorization": f"Bearer {path.key}"}
        return await client.post(CHAT, content=body(tokens, stream=False), headers=auth | headers)


async def look(path: MainPath, url: str, request_id: str, key: str = "") -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        return await client.get(f"/v1/requests/{request_id}", headers={"Authorization": f"Bearer {key or path.key}"})


class TestStreams:
    async def test_a_stream_carries_ids_and_is_what_an_ordinary_one_says(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=0.001)
        await path.gateway()
        reader = Reader(path, path.url)
        await reader.begin(40)
        assert reader.text == answer_of(40)
        assert len(reader.ids) == len(reader.data)
        found = (await look(path, path.url, reader.request_id)).json()
        assert (found["status"], found["usage"]["completion_tokens"]) == ("completed", 40)
        await path.settled()

    async def test_who_left_and_comes_back_to_another_gateway_gets_exactly_the_rest(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        other = await path.other_gateway()
        reader = Reader(path, path.url)
        await reader.begin(60, leave_after=7)
        await reader.go_on(other, leave_after=20)
        await reader.go_on(path.url)
        assert reader.text == answer_of(60)
        again = Reader(path, path.url)
        again.request_id = reader.request_id
        await again.go_on(other)
        assert (again.data, again.ids) == (reader.data, reader.ids)

    async def test_the_gateway_is_killed(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        other = await path.other_gateway()
        readers = [Reader(path, path.url) for _ in range(8)]
        tasks = [asyncio.create_task(reader.begin(80)) for reader in readers]
        await eventually(lambda: all(len(reader.data) > 5 for reader in readers))
        await gateway.kill()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(reader.ended for reader in readers)
        await asyncio.gather(*(reader.until_ended([other]) for reader in readers))
        assert [reader.text for reader in readers] == [answer_of(80)] * 8
        await eventually(lambda: _is(path.stored(), 0))

    async def test_the_worker_is_killed(self, path: MainPath) -> None:
        victim = await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        readers = [Reader(path, path.url) for _ in range(4)]
        tasks = [asyncio.create_task(reader.begin(80)) for reader in readers]
        await eventually(lambda: all(len(reader.data) > 5 for reader in readers))
        await path.worker("llm-1", simulator_itl_s=ITL_S)
        await victim.kill()
        await asyncio.gather(*tasks)
        assert [reader.text for reader in readers] == [answer_of(80)] * 4
        await eventually(lambda: _is(path.stored(), 0))


async def _is(value: Any, wanted: object) -> bool:
    return bool(await value == wanted)
