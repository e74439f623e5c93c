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

from inferbus import client as client_module
from inferbus.errors import NotFound
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


class TestProducers:
    async def test_a_producer_that_was_away_fetches_its_answer(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        options: dict[str, Any] = {"request_id": "mine", "deliver": "results", "max_tokens": 60}
        async with path.producer() as producer:
            asking = asyncio.create_task(producer.chat(MODEL, HELLO, **options))
            await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await gateway.kill()
        await path.other_gateway()
        async with path.producer() as another:
            answer = await another.result("mine", timeout_s=20)
            assert answer["choices"][0]["message"]["content"] == answer_of(60)
            with pytest.raises(NotFound):
                await another.result("nobody's", timeout_s=5)

    async def test_a_streaming_producer_does_not_notice_that_its_gateway_dies(
        self, path: MainPath, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "_SILENT_S", 4.0)
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        words: list[str] = []
        async with path.producer() as producer:
            stream = producer.stream(MODEL, HELLO, deliver="results", max_tokens=80, request_id="s1")
            async for chunk in stream:
                words.append(chunk["choices"][0]["delta"].get("content", ""))
                if len(words) == 10:
                    await gateway.kill()
                    await path.other_gateway()
            assert "".join(words) == answer_of(80)
            events = [event async for event in producer.events("s1")]
            rest = [event async for event in producer.events("s1", after=events[49].id)]
        assert rest == events[50:]

    async def test_the_same_idempotency_key_is_one_run(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=0.005)
        await path.gateway()
        async with path.producer() as one, path.producer() as other:
            asks = [
                producer.chat(MODEL, HELLO, idempotency_key="k", max_tokens=20)
                for producer in (one, other)
                for _ in range(3)
            ]
            answers = await asyncio.gather(*asks)
        assert all(answer == answers[0] for answer in answers)
        assert path.figure("llm-0", "inferbus_worker_requests_total") == 1
