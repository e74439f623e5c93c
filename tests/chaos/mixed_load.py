"""The soak's load: streams and whole answers, clients that hang up in every phase, mistakes, large bodies; never the same.

What ends is judged; what is broken on purpose must be refused as it should be.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any, Self

import httpx
import msgspec
from tests.chaos.assembled import assemble
from tests.chaos.oracle import judge, simulated_question
from tests.chaos.streaming import Received, receive, receive_durably
from tests.main_path import MODEL, MainPath

from inferbus_llm_worker.adapters.simulated_words import simulated_answer

_TOKENS = (5, 80)
_HANG_UP_S = (0.0, 0.4)
_LARGE_BYTES = 1_500_000
_KINDS = {"stream": 180, "whole": 100, "durable": 24, "hang up": 48, "hang up whole": 16, "mistake": 39, "large": 1}

_DEADLINE = {"X-Inferbus-Deadline-Ms": "60000"}
"""A large body is stored until then."""


class MixedLoad:
    """`clients` loops, one request after the other each. `counts` says what was done, `failures` what was not right."""

    def __init__(self, path: MainPath, *, clients: int, draw: random.Random) -> None:
        self._path = path
        self._clients = clients
        self._draw = draw
        self._mark = f"s{draw.randrange(1_000_000)}"  # ids are remembered, also those of a load before this one
        self._going = True
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._http = httpx.AsyncClient(
            base_url=path.url, timeout=60, headers={"Authorization": f"Bearer {path.key}"} | _DEADLINE
        )
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._loop()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    def check(self) -> None:
        """Raise what ended a client: a bug of this program, or an answer nobody expects."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _loop(self) -> None:
        while self._going:
            self._count += 1
            kind = self._draw.choices(list(_KINDS), list(_KINDS.values()))[0]
            await self._do(kind, f"{self._mark}-{self._count}")
            self.counts[kind] += 1

    async def _do(self, kind: str, name: str) -> None:
        if kind in ("stream", "durable"):
            await self._stream(name, durable=kind == "durable")
        elif kind == "whole":
            await self._whole(name, [{"role": "user", "content": f"{name} tell me"}])
        elif kind == "large":
            await self._whole(name, [{"role": "user", "content": f"{name} {'x' * _LARGE_BYTES}"}])
        elif kind == "mistake":
            await self._mistake()
        else:
            await self._hang_up(name, streamed=kind == "hang up")

    async def _stream(self, name: str, *, durable: bool) -> None:
        question = simulated_question(MODEL, name, self._draw.randint(*_TOKENS))
        received = Received(request_id=name, gateway="gateway-0", began=time.monotonic())
        body = msgspec.json.encode(question.body)
        if durable:
            await receive_durably(lambda: {"gateway-0": self._path.url}, body, self._headers(name), received)
        else:
            await receive(self._path.url, body, self._headers(name), received)
        flaws = judge(question, assemble(received.events), name)
        if flaws.any:
            self.failures.append(f"{name}: {flaws}")

    async def _whole(self, name: str, messages: list[dict[str, Any]]) -> None:
        tokens = self._draw.randint(*_TOKENS)
        answer = await self._post({"model": MODEL, "messages": messages, "max_tokens": tokens})
        said = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.text
        if said != simulated_answer(messages, tokens):
            self.failures.append(f"{name}: {answer.status_code} {said[:200]}")

    async def _mistake(self) -> None:
        wrong: list[tuple[int, dict[str, Any]]] = [
            (400, {"model": MODEL, "messages": "none"}),
            (404, {"model": f"unknown-{self._count}", "messages": [{"role": "user", "content": "x"}]}),
            (400, {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}),
            (400, {"model": MODEL, "messages": [], "stream": True}),
        ]
        status, body = self._draw.choice(wrong)
        answer = await self._post(body)
        if answer.status_code != status:
            self.failures.append(f"{answer.status_code} instead of {status}: {answer.text[:200]}")

    async def _hang_up(self, name: str, *, streamed: bool) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": name}],
            "max_tokens": 10_000,
            "stream": streamed,
        }
        received = Received(request_id=name, gateway="gateway-0", began=time.monotonic())
        patience_s = self._draw.uniform(*_HANG_UP_S)
        asked = asyncio.create_task(receive(self._path.url, msgspec.json.encode(body), self._headers(name), received))
        await asyncio.wait([asked], timeout=patience_s)
        if asked.done():
            self.failures.append(f"{name}: ended by itself: {asked.exception()}")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        return await self._http.post("/v1/chat/completions", content=msgspec.json.encode(body))

    def _headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._path.key}", "X-Request-Id": name} | _DEADLINE
