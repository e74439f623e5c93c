"""The main path under load and trouble, with the simulator in the engine's place: real processes, real bus, no model."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.main_path import HELLO, MODEL, MainPath, answer_of, ask

import inferbus
from inferbus import routes
from inferbus.errors import Cancelled
from inferbus.testing import eventually

SLOW_S = 0.02
"""Seconds per token where something shall happen in the middle of an answer."""


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        yield path


@asynccontextmanager
async def asking(path: MainPath, count: int, tokens: int, **options: Any) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Ask in the background; leaving the block hangs up on what is not answered."""
    async with path.client() as client:
        tasks = [asyncio.create_task(ask(client, tokens, **options)) for _ in range(count)]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# --- load ---------------------------------------------------------------------------------------------------------


async def test_two_hundred_streams_at_once_each_get_their_own_words(path: MainPath) -> None:
    await path.worker(simulator_itl_s=0.005)
    await path.gateway()
    async with path.client() as client:
        texts = await asyncio.gather(*(ask(client, 20 + n % 30, stream=True) for n in range(200)))
    assert texts == [answer_of(20 + n % 30) for n in range(200)]
    await path.settled()


async def test_more_than_the_slots_queue_and_show_in_the_metrics(path: MainPath) -> None:
    await path.worker(simulator_slots=2, simulator_itl_s=0.1)
    await path.gateway()
    async with asking(path, 12, 1000, stream=True):
        await eventually(lambda: path.figure("gateway-0", "inferbus_gateway_pool_open_requests") == 12)
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 2)
        await eventually(lambda: path.figure("gateway-0", "inferbus_gateway_pool_queue_messages") >= 8)
        assert path.figure("llm-0", "inferbus_worker_queue_pending") >= 8
        assert path.figure("gateway-0", "inferbus_gateway_pool_workers") == 1
        assert path.figure("gateway-0", "inferbus_gateway_pool_queued_tokens") > 0
        age = "inferbus_gateway_pool_oldest_pending_seconds"
        before = path.figure("gateway-0", age)
        await eventually(lambda: path.figure("gateway-0", age) > before + 0.5)
        assert await path.stored() == 12
    await path.settled()


async def test_the_batch_lane_leaves_room_for_the_interactive_one(path: MainPath) -> None:
    await path.worker(simulator_slots=8, simulator_itl_s=SLOW_S)
    await path.gateway()
    headers = {"X-Inferbus-Lane": routes.BATCH}
    async with asking(path, 20, 10_000, extra_headers=headers), path.client() as client:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 7)
        for _ in range(3):
            assert await asyncio.wait_for(ask(client, 5), 5) == answer_of(5)
        assert path.figure("llm-0", "inferbus_worker_running") == 7
    await path.settled()
    await eventually(lambda: _none(path.stored(routes.BATCH)), within_s=10)


async def _none(count: Any) -> bool:
    return not await count


# --- clients that leave, or take nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["queued", "prefill", "decode"])
async def test_hanging_up_frees_everything_in_every_phase(path: MainPath, phase: str, stream: bool) -> None:
    pace = {"simulator_ttft_s": 60.0} if phase == "prefill" else {"simulator_itl_s": SLOW_S}
    await path.worker(simulator_slots=1, **pace)
    await path.gateway()
    async with asking(path, 1, 100_000, stream=stream) as first:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1)
        if phase == "queued":
            async with asking(path, 1, 100_000, stream=stream):
                await eventually(lambda: path.figure("gateway-0", "inferbus_gateway_open_requests") == 2)
            await eventually(lambda: path.figure("gateway-0", "inferbus_gateway_open_requests") == 1)
            assert not first[0].done()
    await path.settled(within_s=5)


async def test_a_client_that_reads_nothing_is_cancelled_and_delays_nobody(path: MainPath) -> None:
    await path.worker(simulator_itl_s=0.0005)
    await path.gateway()
    host, port = path.url.removeprefix("http://").split(":")
    body = json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 10**7}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {path.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        deaf.sendall((head + body).encode())
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1)
        async with path.client() as client:
            began = asyncio.get_running_loop().time()
            assert await ask(client, 20, stream=True) == answer_of(20)
            assert asyncio.get_running_loop().time() - began < 3
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 0, within_s=60)
    assert _status_count(path, 499) == 1
    await path.settled()


def _status_count(path: MainPath, status: int) -> float:
    text = httpx.get(f"{path.url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("inferbus_gateway_requests_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'status="{status}"' in line)


# --- the bus goes ---------------------------------------------------------------------------------------------------


async def test_every_request_gets_exactly_one_answer_while_the_bus_is_killed(path: MainPath) -> None:
    """A steady load of whole and streamed answers, and three SIGKILLs of the server under it."""
    await path.worker("llm-0", simulator_itl_s=0.003)
    await path.worker("llm-1", simulator_itl_s=0.003)
    await path.gateway()
    loading = asyncio.Event()
    loading.set()
    answered = 0

    async def load(client: openai.AsyncOpenAI, n: int) -> None:
        nonlocal answered
        while loading.is_set():
            tokens = 5 + n % 60
            assert await ask(client, tokens, stream=n % 2 == 0) == answer_of(tokens)
            answered += 1

    async with path.client() as client:
        loaders = [asyncio.create_task(load(client, n)) for n in range(40)]
        for _ in range(3):
            before = answered
            await eventually(lambda: answered > before + 100, within_s=30)  # noqa: B023 - awaited in the same pass
            await path.nats.restart(signal.SIGKILL)
        before = answered
        await eventually(lambda: answered > before + 100, within_s=30)
        loading.clear()
        await asyncio.gather(*loaders)
    # An acknowledgement that was lost with the server: redelivered when its lease is over, asked about, dropped.
    await path.settled(within_s=60)


async def test_a_bus_that_stays_away_is_a_503_and_recovery_needs_no_restart(path: MainPath) -> None:
    worker = await path.worker()
    gateway = await path.gateway(hold_s=1)
    async with path.client() as client, httpx.AsyncClient(base_url=path.url) as http:
        assert await ask(client, 3) == answer_of(3)
        await path.nats.kill()
        for stream in (False, True):
            began = asyncio.get_running_loop().time()
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(client, 3, stream=stream)
            assert 0.8 < asyncio.get_running_loop().time() - began < 4
            assert (caught.value.status_code, caught.value.code) == (503, "dependency_down")
            assert int(caught.value.response.headers["retry-after"]) >= 1
        assert (await http.get("/health/ready")).status_code == 503
        assert (await http.get("/health/live")).status_code == 200
        await path.nats.start()
        await eventually(lambda: _answers(http, 200), within_s=10)
        assert await ask(client, 3) == answer_of(3)
    assert (worker.pid, gateway.pid) == (path.beat("llm-0").pid, path.beat("gateway-0").pid)


async def _answers(http: httpx.AsyncClient, status: int) -> bool:
    return (await http.get("/health/ready")).status_code == status


# --- workers and gateways go ------------------------------------------------------------------------------------------


async def test_a_stopping_worker_hands_back_what_it_cannot_finish(path: MainPath) -> None:
    worker = await path.worker("llm-0", simulator_itl_s=SLOW_S, drain_grace_s=0.3)
    await path.gateway()
    async with asking(path, 5, 200) as whole, asking(path, 3, 200, stream=True) as streams:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 8)
        await path.worker("llm-1")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert await asyncio.gather(*whole, *streams) == [answer_of(200)] * 8
    await path.settled()


async def test_a_stopping_worker_finishes_what_it_can(path: MainPath) -> None:
    worker = await path.worker("llm-0", simulator_itl_s=SLOW_S)
    await path.gateway()
    async with asking(path, 3, 60) as whole, asking(path, 3, 60, stream=True) as streams:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 6)
        worker.signal(signal.SIGTERM)
        assert await asyncio.gather(*whole, *streams) == [answer_of(60)] * 6
        assert await worker.ended() == 0
    await eventually(lambda: _none(path.stored()))


async def test_a_stopping_gateway_finishes_open_answers_and_takes_no_new_ones(path: MainPath) -> None:
    await path.worker("llm-0", simulator_itl_s=SLOW_S)
    gateway = await path.gateway()
    async with asking(path, 3, 60) as whole, asking(path, 3, 60, stream=True) as streams, path.client() as client:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 6)
        gateway.signal(signal.SIGTERM)
        await eventually(lambda: _refused(path))
        with pytest.raises(openai.APIConnectionError):
            await ask(client, 3)
        assert await asyncio.gather(*whole, *streams) == [answer_of(60)] * 6
        assert await gateway.ended() == 0
    await eventually(lambda: _none(path.stored()))


def _refused(path: MainPath) -> bool:
    host, port = path.url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


async def test_a_killed_worker_is_taken_over_at_once(path: MainPath) -> None:
    worker = await path.worker("llm-0", simulator_itl_s=SLOW_S)
    await path.gateway()
    async with asking(path, 5, 100) as whole, asking(path, 2, 100, stream=True) as streams:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 7)
        await path.worker("llm-1")
        await worker.kill()
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(*whole) == [answer_of(100)] * 5
        assert asyncio.get_running_loop().time() - began < 6, "not after the lease of 20 s"
        assert await asyncio.gather(*streams) == [answer_of(100)] * 2, "each goes on where its client is"
    await path.settled()


async def test_a_frozen_worker_is_taken_over_and_what_it_says_later_is_ignored(path: MainPath) -> None:
    worker = await path.worker("llm-0", simulator_itl_s=SLOW_S)
    await path.gateway()
    async with asking(path, 5, 150) as whole:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 5)
        await path.worker("llm-1", simulator_itl_s=SLOW_S)
        await worker.freeze()
        # The frozen one's standing pull may be given some again; they wait for it, or for their lease to run out.
        await eventually(lambda: path.figure("llm-1", "inferbus_worker_running") > 0, within_s=10)
        worker.signal(signal.SIGCONT)
        assert await asyncio.gather(*whole) == [answer_of(150)] * 5
    await path.settled()


@pytest.mark.slow
async def test_what_a_killed_gateway_asked_for_is_dropped(path: MainPath) -> None:
    await path.worker("llm-0", simulator_itl_s=SLOW_S)
    gateway = await path.gateway()
    async with asking(path, 2, 100_000, stream=True) as streams:
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 2)
        await gateway.kill()
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 0, within_s=8)
        for broken in await asyncio.gather(*streams, return_exceptions=True):
            assert isinstance(broken, (openai.APIConnectionError, httpx.RemoteProtocolError))
    await eventually(lambda: _none(path.stored()), within_s=25)  # it might only have been cut off
    await path.gateway()
    async with path.client() as client:
        assert await ask(client, 3) == answer_of(3)


async def test_a_bus_that_freezes_answers_or_refuses_and_recovers(path: MainPath) -> None:
    """The connection stays up and nothing moves: no disconnect says so."""
    await path.worker()
    await path.gateway(hold_s=1)
    async with path.client() as client:
        assert await ask(client, 3) == answer_of(3)
        await path.nats.freeze()
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                await asyncio.wait_for(ask(client, 3), 10)
            assert caught.value.code == "dependency_down"
        finally:
            path.nats.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(ask(client, 3), 10) == answer_of(3)
    await path.settled()


# --- producers --------------------------------------------------------------------------------------------------------


async def test_many_producers_and_clients_share_the_path(path: MainPath) -> None:
    await path.worker(simulator_itl_s=0.002)
    await path.gateway()
    password = path.nats.passwords["dev"]
    async with inferbus.Client(path.nats.url, user="dev", password=password) as producer, path.client() as client:

        async def produce(tokens: int) -> str:
            answer = await producer.chat(MODEL, HELLO, max_tokens=tokens)
            return str(answer["choices"][0]["message"]["content"])

        counts = [5 + n % 40 for n in range(60)]
        texts = await asyncio.gather(*map(produce, counts), *(ask(client, count, stream=True) for count in counts))
    assert texts == [answer_of(count) for count in counts + counts]
    await path.settled()


async def test_two_gateways_share_the_bus_door_and_the_owner_hears_a_cancel(path: MainPath) -> None:
    await path.worker(simulator_itl_s=SLOW_S)
    gateways = ("gateway-0", "gateway-1")
    for gateway in gateways:
        await path.gateway(gateway)
    question = HELLO

    def owned() -> list[int]:
        return [path.beat(gateway).in_flight for gateway in gateways]

    async with inferbus.Client(path.nats.url, user="dev", password=path.nats.passwords["dev"]) as producer:
        answers = await asyncio.gather(*(producer.chat(MODEL, question, max_tokens=10) for _ in range(60)))
        assert [answer["choices"][0]["message"]["content"] for answer in answers] == [answer_of(10)] * 60
        ids = [f"endless-{n}" for n in range(20)]
        asked = [
            asyncio.create_task(producer.chat(MODEL, question, max_tokens=100_000, request_id=request_id))
            for request_id in ids
        ]
        await eventually(lambda: sum(owned()) == 20 and min(owned()) > 0)
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 20)
        for request_id in ids:
            await producer.cancel(request_id)
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(end) for end in ends} == {Cancelled}
    await eventually(lambda: sum(owned()) == 0)
    await path.settled()


async def test_a_body_by_ticket_waits_for_its_worker(path: MainPath) -> None:
    """What is stored beside the queue is still there when somebody comes to take it."""
    await path.gateway()
    async with asking(path, 2, 5, metadata={"note": "n" * 3_000_000}) as waiting:
        await eventually(lambda: _some(path.stored()), within_s=10)
        await path.worker()
        assert await asyncio.gather(*waiting) == [answer_of(5)] * 2
    await path.settled()


async def _some(count: Any) -> bool:
    return bool(await count)
