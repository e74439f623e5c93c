"""Workers and ledgers are killed while clients read their answers: in the end the ledger has what the answers say."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import msgspec
import pytest
from openai import APIError, AsyncOpenAI
from tests.connected.test_usage_events import events
from tests.main_path import HELLO, MODEL, MainPath, Service

from inferbus.contracts.prices import Price, cost
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import Figures, UsageEvent
from inferbus.ledger.prices import set_price
from inferbus.ledger.reading import Verdict, read_totals, verify
from inferbus.ledger.rows import summed
from inferbus.testing import eventually

PRICE = Price(input=1_500_000, output=2_500_000)
KILLS, AT_ONCE = 8, 12


async def asked(client: AsyncOpenAI, n: int) -> tuple[str, Usage]:
    """Ask, and give the answer's id and what it says it took."""
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5 + n % 40}
    if n % 2:
        answer = await client.chat.completions.create(**body)
        assert answer.usage is not None
        name, usage = answer.id, answer.usage
    else:
        stream = await client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        name, last = chunks[0].id, chunks[-1].usage
        assert last is not None
        usage = last
    return name.removeprefix("chatcmpl-"), Usage(usage.prompt_tokens, usage.completion_tokens)


class Killed:
    """Processes that are killed and started again, one after the other."""

    def __init__(self, path: MainPath) -> None:
        self._path = path
        self._running: dict[str, Service] = {}

    async def start(self, name: str) -> None:
        path = self._path
        if name.startswith("gateway"):
            self._running[name] = await path.gateway(name)
        elif name.startswith("ledger"):
            self._running[name] = await path.ledger(name)
        else:
            self._running[name] = await path.worker(name, simulator_itl_s=0.02)

    async def again(self, name: str) -> None:
        if name == "nats":
            await self._path.nats.restart()
        else:
            await self._running[name].kill()
            await self.start(name)


def by_request(found: list[UsageEvent]) -> dict[str, Figures]:
    sums: dict[str, Figures] = {}
    for event in found:
        sums[event.request_id] = sums.get(event.request_id, Figures()) + event.figures
    return sums


def expected(usage: Usage) -> Figures:
    return Figures(
        requests=1, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens,
        cost=cost(PRICE, usage),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_ledger_is_the_sum_of_the_answers(tmp_path: Path) -> None:
    rng = random.Random(4)
    async with MainPath(tmp_path) as path:
        path.start_s = 60.0
        admin = await path.nats.connect("admin")
        await set_price(admin, MODEL, PRICE)
        await path.gateway()
        crew = Killed(path)
        names = ["llm-0", "llm-1", "ledger-0", "ledger-1"]
        for name in names:
            await crew.start(name)
        answers: dict[str, Usage] = {}
        over = asyncio.Event()

        async def ask_on(client: AsyncOpenAI, first: int) -> None:
            n = first
            while not over.is_set():
                name, usage = await asked(client, n)
                answers[name] = usage
                n += AT_ONCE

        async with path.client(timeout=120.0) as client:
            asking = [asyncio.create_task(ask_on(client, n)) for n in range(AT_ONCE)]
            for kill in range(KILLS):
                await asyncio.sleep(rng.uniform(0.1, 0.5))  # anywhere in an answer
                await crew.again(names[kill % len(names)])
            over.set()
            await asyncio.gather(*asking)
        await path.settled(within_s=60)
        found = await events(admin)
        assert by_request(found) == {name: expected(usage) for name, usage in answers.items()}
        whole = sum((expected(usage) for usage in answers.values()), Figures())
        assert sum((event.figures for event in found), Figures()) == whole

        async def is_added_up() -> bool:
            return summed(await read_totals(admin)) == whole

        await eventually(is_added_up, within_s=30)
        rows = len(await read_totals(admin))  # of one day, or of two
        assert await verify(admin) == Verdict(events=len(found), rows=rows, waiting=0, too_old=0, differences=[])
        print(f"{len(answers)} answers, {len(found)} events, {KILLS} kills:", msgspec.structs.asdict(whole))
        await admin.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_whatever_is_killed_every_answer_that_was_read_is_in_the_ledger_once(tmp_path: Path) -> None:
    """Gateways and the server too: then there are requests without an answer, and none of them is there twice."""
    rng = random.Random(11)
    async with MainPath(tmp_path) as path:
        path.start_s = 60.0
        admin = await path.nats.connect("admin")
        await set_price(admin, MODEL, PRICE)
        crew = Killed(path)
        names = ["gateway-0", "llm-0", "llm-1", "ledger-0"]
        for name in names:
            await crew.start(name)
        answers: dict[str, Usage] = {}
        failed = 0
        over = asyncio.Event()

        async def ask_on(client: AsyncOpenAI, first: int) -> None:
            nonlocal failed
            n = first
            while not over.is_set():
                try:
                    name, usage = await asked(client, n)
                except (APIError, httpx.HTTPError):  # its gateway was killed
                    failed += 1
                    await asyncio.sleep(0.1)  # the pace of a client that tries again
                else:
                    answers[name] = usage
                n += AT_ONCE

        async with path.client(timeout=60.0) as client:
            asking = [asyncio.create_task(ask_on(client, n)) for n in range(AT_ONCE)]
            for victim in ["llm-0", "nats", "gateway-0", "llm-1", "nats", "ledger-0", "gateway-0", "llm-0"]:
                await asyncio.sleep(rng.uniform(0.2, 0.8))  # anywhere in an answer
                await crew.again(victim)
            over.set()
            await asyncio.gather(*asking)
        await path.settled(within_s=90)
        recorded = by_request(await events(admin))
        assert {name: recorded.get(name) for name in answers} == {name: expected(u) for name, u in answers.items()}
        assert {figures.requests for figures in recorded.values()} == {1}
        whole = sum(recorded.values(), Figures())

        async def is_added_up() -> bool:
            return summed(await read_totals(admin)) == whole

        await eventually(is_added_up, within_s=30)
        assert (await verify(admin)).differences == []
        print(f"{len(answers)} answers, {failed} without, {len(recorded)} in the ledger")
        await admin.close()
