"""A full disk, a frozen process, a cut link: each alone, with real processes and what exactly must come of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import httpx
import msgspec
import openai
import pytest
from nats.aio.msg import Msg
from tests.chaos.assembled import assemble
from tests.chaos.oracle import Flaws, judge, simulated_question
from tests.chaos.platform import ChaosPlatform, Setting
from tests.chaos.streaming import Received, receive
from tests.main_path import CONFIG, MODEL, MainPath, answer_of, ask

from inferbus import routes
from inferbus.contracts.models import ModelEntry
from inferbus.testing import NatsServer, eventually
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import reconcile

STORE_BYTES = 15 * 2**20
SMALL = msgspec.convert(
    {name: 2**20 for name in TopologySettings.__struct_fields__ if name.endswith("_max_bytes")}, TopologySettings
)
"""What streams reserve for themselves must fit."""
BODY_BYTES = 700_000
"""Below what travels by ticket, so that it is the work stream that fills."""
CUT_S = 5.0


# --- the disk is full ---------------------------------------------------------------------------------------------


class SmallNats(NatsServer):
    """A server that may store 15 MB."""

    def __init__(self, folder: Path) -> None:
        config = folder / "small.conf"
        config.write_text(
            CONFIG.read_text().replace("jetstream {\n", f"jetstream {{\n    max_file_store: {STORE_BYTES}\n", 1)
        )
        super().__init__(folder, config)

    async def reconcile(self, *models: ModelEntry) -> None:
        bus = await self.connect("operator")
        try:
            await reconcile(bus, SMALL, list(models))
        finally:
            await bus.close()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[MainPath]:
    path = MainPath(tmp_path)
    path.nats = SmallNats(tmp_path)
    async with path:
        await path.gateway(hold_s=30)
        yield path


async def fill(path: MainPath, client: openai.AsyncOpenAI) -> list[asyncio.Task[str]]:
    """Ask large questions that nobody answers, until the disk is full; gives those that were accepted."""
    accepted: list[asyncio.Task[str]] = []
    while True:
        messages = [{"role": "user", "content": f"{len(accepted)} " + "x" * BODY_BYTES}]
        before = await path.stored()
        task = asyncio.create_task(ask(client, 5, messages=messages))
        while not task.done() and await path.stored() == before:
            await asyncio.wait([task], timeout=0.02)
        if task.done():
            with pytest.raises(openai.InternalServerError):
                await task
            return accepted
        accepted.append(task)


async def test_a_full_disk_refuses_at_once_and_recovers_when_work_is_done(small: MainPath) -> None:
    async with small.client() as client:
        waiting = await fill(small, client)
        assert 10 < len(waiting) < 30
        for stream in (False, True):
            began = time.monotonic()
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(client, 5, stream=stream)
            assert time.monotonic() - began < 15, "nothing is held, for 30 s, that cannot be stored"
            assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
            assert "space" in caught.value.message
            assert int(caught.value.response.headers["retry-after"]) >= 1
        async with httpx.AsyncClient(base_url=small.url) as http:
            assert (await http.get("/health/live")).status_code == 200
        await small.worker()
        answers = await asyncio.gather(*waiting)
        assert [answer.count("-") for answer in answers] == [5] * len(waiting)
        assert len(set(answers)) == len(waiting), "each got its own"
        await eventually(lambda: _is_answered(client), within_s=10)
        assert await ask(client, 5, stream=True) == answer_of(5)
    await small.settled()


async def test_a_full_disk_recovers_after_a_purge(small: MainPath) -> None:
    async with small.client() as client:
        waiting = await fill(small, client)
        operator = await small.nats.connect("operator")
        await operator.request(f"$JS.API.STREAM.PURGE.{routes.stream_infer('local', 'llm', routes.INTERACTIVE)}")
        await operator.close()
        await small.worker()
        await eventually(lambda: _is_answered(client), within_s=10)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await small.settled()


async def _is_answered(client: openai.AsyncOpenAI) -> bool:
    try:
        return await ask(client, 5) == answer_of(5)
    except openai.InternalServerError:
        return False


# --- a process is frozen ------------------------------------------------------------------------------------------


async def test_a_frozen_worker_is_taken_over_and_does_no_harm_when_it_wakes(tmp_path: Path) -> None:
    acks: Counter[int] = Counter()

    async def on_ack(message: Msg) -> None:
        if message.data.startswith(b"+ACK"):
            acks[int(message.subject.split(".")[5])] += 1

    async with MainPath(tmp_path) as path:
        operator = await path.nats.connect("operator")
        await operator.subscribe(f"$JS.ACK.{routes.stream_infer('local', 'llm', routes.INTERACTIVE)}.>", on_ack)
        frozen = await path.worker("llm-0", simulator_itl_s=0.02)
        await path.gateway()
        async with path.client() as client:
            asking = [asyncio.create_task(ask(client, 150, stream=n % 2 == 0)) for n in range(6)]
            await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 6)
            await path.worker("llm-1", simulator_itl_s=0.02)
            await frozen.freeze()
            answers = await asyncio.wait_for(asyncio.gather(*asking), 15)  # its lease would last for 20 s
            assert answers == [answer_of(150)] * 6
            await eventually(lambda: _none(path.stored()))
            assert "llm-0" not in path.presence.alive()
            await eventually(lambda: len(acks) == 6)  # what the bus tells another connection may come later
            assert set(acks.values()) == {1}, "each message was acknowledged once"
            frozen.signal(signal.SIGCONT)
            await eventually(lambda: "llm-0" in path.presence.alive())
            await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 0)
            metrics = _metrics(path, "llm-0")
            assert 'outcome="stopped"' in metrics
            assert 'outcome="finished"' not in metrics, "what it had, others have answered"
            assert await ask(client, 3) == answer_of(3)
        await path.settled()
        await operator.close()


def _metrics(path: MainPath, process: str) -> str:
    return httpx.get(f"http://127.0.0.1:{path.beat(process).health_port}/metrics").text


async def _none(count: Awaitable[int]) -> bool:
    return not await count


# --- a link is cut ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reset", "silent"])
async def test_a_gateway_cut_off_from_the_bus_loses_no_stream(tmp_path: Path, how: str) -> None:
    async with ChaosPlatform(tmp_path, Setting(itl_s=0.02)) as platform:
        questions = [simulated_question(MODEL, f"q{n}", 300 + n) for n in range(8)]
        streams = [Received(request_id=one.name, gateway="gateway-0", began=time.monotonic()) for one in questions]
        reading = [
            asyncio.create_task(
                receive(
                    platform.url,
                    msgspec.json.encode(question.body),
                    {"Authorization": f"Bearer {platform.key}", "X-Request-Id": question.name},
                    stream,
                )
            )
            for question, stream in zip(questions, streams, strict=True)
        ]
        await eventually(lambda: all(len(stream.times) > 20 for stream in streams), within_s=10)
        link = platform.links["gateway-0"]
        if how == "reset":
            await link.refuse()
        else:
            link.freeze()
        await asyncio.sleep(CUT_S)  # as long as the cut is to be
        assert not any(task.done() for task in reading), "the clients are still connected"
        await link.allow() if how == "reset" else link.thaw()
        await asyncio.gather(*reading)
        for question, stream in zip(questions, streams, strict=True):
            assert judge(question, assemble(stream.events), question.name) == Flaws()
            assert stream.longest_gap_s > CUT_S / 2, "it was in the middle of the answer"
        await platform.settled(within_s=40)
