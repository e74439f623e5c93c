"""Draining one process: over the bus or by SIGTERM, its work is finished in time, or goes on elsewhere where it was."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI
from tests import nursery
from tests.main_path import HELLO, MODEL, MainPath, Service, answer_of, ask

from inferbus.contracts.presence import DRAINING
from inferbus.testing import eventually

_SLOW = {"simulator_itl_s": 0.02}
_TOKENS = 600  # 12 s: longer than a slow machine takes to start a worker and a command

_SHORT = 200  # 4 s: what a draining gateway of the tests waits for


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.gateway(drain_s=10, linger_s=0.2)
        yield path


async def inferbus_drain(path: MainPath, process: str, *options: str) -> tuple[int, str]:
    """Run `inferbus drain` with the rights of an administrator; gives the exit status and what it printed."""
    env = os.environ | {
        "INFERBUS_BUS_URL": path.nats.url,
        "INFERBUS_BUS_USER": "admin",
        "INFERBUS_BUS_PASSWORD": path.nats.passwords["admin"],
    }
    done = await asyncio.to_thread(nursery.command, "drain", process, *options, env=env, timeout_s=30)
    return done.returncode, done.stderr + done.stdout


async def begun(path: MainPath, client: AsyncOpenAI, worker: str, streams: int, wholes: int) -> list[asyncio.Task[str]]:
    """Ask for long answers and wait until the worker has them all."""
    kinds = [True] * streams + [False] * wholes
    asked = [asyncio.create_task(ask(client, _TOKENS, stream=streamed)) for streamed in kinds]
    await eventually(lambda: path.beat(worker).in_flight == len(kinds))
    return asked


async def ended_well(service: Service) -> None:
    assert await service.ended() == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bus", "signal"])
async def test_what_does_not_end_in_time_goes_on_elsewhere(path: MainPath, how: str) -> None:
    first = await path.worker("llm-0", drain_grace_s=0.5, **_SLOW)
    async with path.client() as client:
        asked = await begun(path, client, "llm-0", streams=4, wholes=2)
        second = await path.worker("llm-1", **_SLOW)
        if how == "bus":
            status, printed = await inferbus_drain(path, "llm-0")
            assert status == 0, printed
            assert "in flight" in printed
            assert printed.splitlines()[-1] == "llm-0: drained"
        else:
            first.signal(signal.SIGTERM)
        await ended_well(first)
        assert path.beat("llm-1").pid == second.pid
        assert path.log("llm-0").count('"outcome":"handed_over"') == 6
        assert await asyncio.gather(*asked) == [answer_of(_TOKENS)] * 6
        await path.settled()


@pytest.mark.slow
async def test_a_durable_stream_is_handed_over_too(path: MainPath) -> None:
    first = await path.worker("llm-0", drain_grace_s=0.3, **_SLOW)
    async with path.client(default_headers={"X-Inferbus-Durable": "true"}) as client:
        asked = await begun(path, client, "llm-0", streams=2, wholes=1)
        await path.worker("llm-1", **_SLOW)
        first.signal(signal.SIGTERM)
        await ended_well(first)
        assert await asyncio.gather(*asked) == [answer_of(_TOKENS)] * 3
        await path.settled()
        assert path.figure("llm-1", "inferbus_worker_running") == 0


@pytest.mark.slow
async def test_usage_counts_what_both_workers_made_once(path: MainPath) -> None:
    first = await path.worker("llm-0", drain_grace_s=0.3, **_SLOW)
    async with path.client() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=_TOKENS, stream=True, stream_options={"include_usage": True}
        )  # type: ignore[call-overload]  # plain JSON
        await anext(stream)
        await path.worker("llm-1", **_SLOW)
        first.signal(signal.SIGTERM)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage.completion_tokens == _TOKENS
        await ended_well(first)


@pytest.mark.slow
async def test_what_ends_in_time_stays_where_it_is(path: MainPath) -> None:
    first = await path.worker("llm-0", drain_grace_s=20, **_SLOW)
    async with path.client() as client:
        asked = await begun(path, client, "llm-0", streams=2, wholes=1)
        await path.worker("llm-1", **_SLOW)
        first.signal(signal.SIGTERM)
        await eventually(lambda: path.beat("llm-0").state == DRAINING)
        assert await ask(client, 20) == answer_of(20)  # taken by the other one
        assert await asyncio.gather(*asked) == [answer_of(_TOKENS)] * 3
        await ended_well(first)
        await path.settled()
    engine = path.beat("llm-1").engine
    assert engine is not None
    assert engine.generated_tokens == 20, "nothing was handed over"


async def test_a_gateway_says_so_finishes_and_ends(path: MainPath) -> None:
    await path.worker("llm-0", **_SLOW)
    gateway = await path.gateway("gateway-1", drain_s=10, linger_s=5)
    port = path.beat("gateway-1").health_port
    limits = httpx.Limits(max_keepalive_connections=1)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30) as probe:
        assert (await probe.get("/health/ready")).status_code == 200
        asked = asyncio.create_task(_streamed(path, port))
        await eventually(lambda: path.beat("gateway-1").in_flight == 1)
        draining = asyncio.create_task(inferbus_drain(path, "gateway-1"))
        await eventually(lambda: path.beat("gateway-1").state == DRAINING)
        refusal = await probe.get("/health/ready")  # on the connection it has
        assert (refusal.status_code, refusal.json()["reason"]) == (503, "draining")
        assert refusal.headers["connection"] == "close"
        assert await asked == answer_of(_SHORT)
        status, printed = await draining
        assert (status, printed.splitlines()[-1]) == (0, "gateway-1: drained")
        with pytest.raises(httpx.ConnectError):
            await probe.get("/health/ready")
    await ended_well(gateway)


async def _streamed(path: MainPath, port: int) -> str:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=path.key, max_retries=0) as client:
        return await ask(client, _SHORT, stream=True)


@pytest.mark.slow
async def test_who_waits_no_longer_is_told_what_is_left(path: MainPath) -> None:
    """And a signal sent meanwhile is the first one: it does not end the process before its work."""
    worker = await path.worker("llm-0", drain_grace_s=20, **_SLOW)
    async with path.client() as client:
        asked = await begun(path, client, "llm-0", streams=1, wholes=0)
        status, printed = await inferbus_drain(path, "llm-0", "--timeout", "1")
        assert status == 1
        assert "llm-0: still has 1 in flight after 1 s" in printed
        worker.signal(signal.SIGTERM)
        assert await asyncio.gather(*asked) == [answer_of(_TOKENS)]
    await ended_well(worker)


async def test_nobody_of_that_name(path: MainPath) -> None:
    status, printed = await inferbus_drain(path, "llm-9")
    assert status == 1
    assert "no process named 'llm-9' is on the bus" in printed
