"""Cancelling, with proof: in every phase, streamed or not, whoever asks for it. The engine stops, the slot is free, the
counters are at zero, and one event says how far the request had got.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.main_path import HELLO, MODEL, MainPath
from tests.told_facts import Told, told_facts

import inferbus
from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.testing import eventually

ORIGINS = ("hang_up", "by_id", "by_id_elsewhere", "bus", "sdk", "sdk_leaves")
ENDLESS = 100_000
PACE: dict[str, dict[str, float]] = {
    "queued": {"simulator_slots": 1, "simulator_itl_s": 0.02},
    "prefill": {"simulator_ttft_s": 60.0},
    "decode": {"simulator_itl_s": 0.02},
}
COUNT = 2 * len(ORIGINS)
LIMITS = Limits(max_pending=COUNT + 1, max_pending_per_tenant=COUNT + 1)
"""One more than is asked at once, for what keeps the engine busy: a place that is not given back would be missed."""


class Scene:
    """A platform with two gateways, and everybody who asks."""

    def __init__(self, path: MainPath, elsewhere: str, operator: Bus, dev: Bus, producer: inferbus.Client) -> None:
        self.path = path
        self.operator = operator
        self._dev = dev
        self._producer = producer
        headers = {"Authorization": f"Bearer {path.key}"}
        self.http = httpx.AsyncClient(base_url=path.url, headers=headers, timeout=60)
        self.elsewhere = httpx.AsyncClient(base_url=elsewhere, headers=headers, timeout=60)
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.gather(self.http.aclose(), self.elsewhere.aclose())

    def ask(self, request_id: str, *, streamed: bool, tokens: int = ENDLESS, sdk: bool = False) -> None:
        ask = self._ask_bus if sdk else self._ask_http
        self._tasks[request_id] = asyncio.create_task(ask(request_id, tokens, streamed))

    async def end_of(self, request_id: str) -> Any:
        """Give what a request ended in for who asked it."""
        [end] = await asyncio.gather(self._tasks[request_id], return_exceptions=True)
        return end

    async def _ask_http(self, request_id: str, tokens: int, streamed: bool) -> tuple[int, str]:
        body = {"model": MODEL, "messages": HELLO, "max_tokens": tokens, "stream": streamed}
        while True:
            answer = await self.http.post("/v1/chat/completions", json=body, headers={"X-Request-Id": request_id})
            if answer.status_code != 503:
                return answer.status_code, answer.text
            # Workers report the queue's length every few seconds: after many were cancelled at once it seems full.
            await asyncio.sleep(float(answer.headers["retry-after"]))

    async def _ask_bus(self, request_id: str, tokens: int, streamed: bool) -> object:
        options = {"max_tokens": tokens, "request_id": request_id}
        if not streamed:
            return await self._producer.chat(MODEL, HELLO, **options)
        return [chunk async for chunk in self._producer.stream(MODEL, HELLO, **options)]

    async def cancel(self, origin: str, request_id: str) -> None:
        cancel: dict[str, Callable[[], Awaitable[object]]] = {
            "by_id": lambda: self.cancel_by_id(self.http, request_id),
            "by_id_elsewhere": lambda: self.cancel_by_id(self.elsewhere, request_id),
            "bus": lambda: self._dev.publish(routes.cancel("dev", request_id), b""),
            "sdk": lambda: self._producer.cancel(request_id),
        }
        if origin in cancel:
            await cancel[origin]()
        else:  # its client goes
            self._tasks[request_id].cancel()

    async def cancel_by_id(self, client: httpx.AsyncClient, request_id: str) -> None:
        for _ in range(2):  # asking again changes nothing
            answer = await client.post(f"/v1/requests/{request_id}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text

    async def told(self) -> dict[str, list[Told]]:
        told: dict[str, list[Told]] = {}
        for one in await told_facts(self.operator):
            told.setdefault(one.event.request_id, []).append(one)
        return told

    def in_flight(self) -> int:
        return sum(self.path.beat(name).in_flight for name in ("gateway-0", "gateway-1"))

    def generated(self) -> int:
        engine = self.path.beat("llm-0").engine
        assert engine is not None
        return engine.generated_tokens


@pytest.fixture
async def scene(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    phase = request.node.callspec.params["phase"]
    async with AsyncExitStack() as stack:
        path = await stack.enter_async_context(MainPath(tmp_path, ModelEntry(name=MODEL, pool=MODEL, limits=LIMITS)))
        await path.worker(**PACE[phase])
        await path.gateway()
        elsewhere = await path.other_gateway()
        operator, dev = await path.nats.connect("operator"), await path.nats.connect("dev")
        stack.push_async_callback(operator.close)
        stack.push_async_callback(dev.close)
        producer = await stack.enter_async_context(path.producer())
        scene = Scene(path, elsewhere, operator, dev, producer)
        stack.push_async_callback(scene.close)
        yield scene


async def _reach(scene: Scene, phase: str, count: int) -> None:
    """Wait until all requests are in a phase; one more keeps the engine busy where they are to be queued."""
    path = scene.path
    extra = phase == "queued"
    await eventually(lambda: scene.in_flight() == count + extra, within_s=20)
    await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == (1 if extra else count), within_s=10)
    if phase == "decode":
        before = scene.generated()
        await eventually(lambda: scene.generated() > before + 2 * count, within_s=10)


@pytest.mark.parametrize("phase", list(PACE))
async def test_in_every_phase_from_everywhere(scene: Scene, phase: str) -> None:
    path = scene.path
    if phase == "queued":
        scene.ask("blocker", streamed=True)
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1, within_s=10)
    asked = {f"{origin}-{streamed}-{phase}": (origin, streamed) for origin in ORIGINS for streamed in (True, False)}
    for request_id, (origin, streamed) in asked.items():
        scene.ask(request_id, streamed=streamed, sdk=origin.startswith("sdk"))
    await _reach(scene, phase, COUNT)
    assert await path.stored() == COUNT + (phase == "queued")

    await asyncio.gather(*(scene.cancel(origin, request_id) for request_id, (origin, _) in asked.items()))

    left = int(phase == "queued")
    await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == left, within_s=5)
    await eventually(lambda: path.beat("llm-0").in_flight == left, within_s=5)
    await eventually(lambda: scene.in_flight() == left, within_s=5)

    async def is_empty() -> bool:
        return await path.stored() == left

    await eventually(is_empty, within_s=5)
    for request_id, (origin, streamed) in asked.items():
        _check_end(await scene.end_of(request_id), origin, streamed=streamed)

    async def all_told() -> bool:
        return set(asked) <= set(await scene.told())

    await eventually(all_told, within_s=5)
    # Every place was given back: as many again are taken, which a single forgotten one would not let happen.
    for request_id in asked:
        scene.ask(f"again-{request_id}", streamed=True)
    await eventually(lambda: scene.in_flight() == COUNT + left, within_s=20)
    told = await scene.told()
    for request_id, (_, streamed) in asked.items():
        _check_told(told[request_id], phase, streamed=streamed)


def _check_end(end: Any, origin: str, *, streamed: bool) -> None:
    if origin in ("hang_up", "sdk_leaves"):
        assert isinstance(end, asyncio.CancelledError)
    elif origin == "sdk":
        assert type(end).__name__ == "Cancelled", repr(end)
    else:
        status, text = end
        if status == 200:  # a stream that had begun, or said where it stands
            assert streamed
            text = text.rsplit("data: ", 1)[1]
        else:
            assert status == 499
        assert json.loads(text)["error"]["code"] == "cancelled"


def _check_told(told: list[Told], phase: str, *, streamed: bool) -> None:
    assert len(told) == 1, told
    event = told[0].event
    assert told[0].subject == routes.event("gateway" if phase == "queued" else "llm-worker", "request_cancelled")
    assert (event.phase, event.reason, event.streamed) == (phase, "cancelled", streamed)
    assert (event.tenant, event.pool, event.attempt) == ("dev", MODEL, 0 if phase == "queued" else 1)
    assert event.prompt_tokens == (0 if phase == "queued" else 1)
    assert event.completion_tokens is not None
    assert (event.completion_tokens > 0) == (phase == "decode")


@pytest.mark.parametrize("phase", ["decode"])
async def test_another_tenant_can_cancel_nothing_of_ours(scene: Scene, phase: str) -> None:
    scene.ask("ours", streamed=True)
    await _reach(scene, phase, 1)
    key = await scene.path.key_of("other")
    headers = {"Authorization": f"Bearer {key}"}

    async def is_not_found() -> bool:
        answer = await scene.http.post("/v1/requests/ours/cancel", headers=headers)
        return answer.status_code == 404  # 401 until the gateway knows the key

    await eventually(is_not_found, within_s=5)
    await scene.operator.publish(routes.cancel("other", "ours"), b"")
    answer = await scene.elsewhere.post("/v1/requests/never/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    before = scene.generated()
    await eventually(lambda: scene.generated() > before + 10, within_s=5)
    assert await scene.told() == {}


@pytest.mark.parametrize("phase", ["decode"])
async def test_what_has_ended_is_not_cancelled_and_says_how_it_ended(scene: Scene, phase: str) -> None:
    scene.ask("done", streamed=False, tokens=3)
    assert (await scene.end_of("done"))[0] == 200
    for client in (scene.http, scene.elsewhere):
        answer = await client.post("/v1/requests/done/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await scene.told() == {}, phase
