"""Others beside a batch: what they wait for the engine, how busy it is, and how soon a killed batch process goes on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import msgspec

from inferbus import routes
from inferbus.bus.stored import read_stored
from inferbus.contracts.usage import UsageEvent, events_in
from inferbus.testing import eventually
from inferbus_bench.batch_job import MODEL, SLOTS, TOKENS, Job, Place, place, write_input

ITL_S = 0.02
_ROWS = 2_500
_ASKS_A_SECOND, _ASKS_S = 4.0, 20.0
_STEP_S = 0.05


class Beside(msgspec.Struct, frozen=True):
    """What those who asked beside a batch waited for the engine (ms), how busy that was, and how long after a kill the batch
    process asked rows again. `busy` is the time of all requests from receipt to end, over that of all slots; `sampled` is what
    the engine said at its beats: two a second, of which many fall behind the end of a step, when slots are refilled."""

    asked: int
    p50_ms: float
    p99_ms: float
    busy: float
    sampled: float
    resumed_s: float


async def beside(folder: Path) -> Beside:
    """Ask interactively while a batch fills the engine; then kill the batch process."""
    async with place(folder, ITL_S) as at:
        path = folder / "beside.jsonl"
        write_input(path, _ROWS)
        job = Job(at, _ROWS)
        await job.create(path)
        await job.first
        shares: list[float] = []
        watching = asyncio.create_task(_watch_engine(at, shares))
        asks = set[asyncio.Task[object]]()
        window = (time.time(), time.time() + _ASKS_S)
        end = time.monotonic() + _ASKS_S
        while time.monotonic() < end:
            await asyncio.sleep(random.expovariate(_ASKS_A_SECOND))
            asks.add(asyncio.create_task(_ask(at)))
        await asyncio.gather(*asks)
        watching.cancel()
        resumed = await _resumed(at)
        await job.over()
        events = await _events(at)
    waits = sorted(1000 * event.queue_s for event in events if event.lane == routes.INTERACTIVE)
    sampled = sum(shares) / len(shares)
    return Beside(
        len(waits),
        waits[len(waits) // 2],
        waits[int(0.99 * (len(waits) - 1))],
        busy_in(events, *window),
        sampled,
        resumed,
    )


def busy_in(events: list[UsageEvent], begin: float, end: float) -> float:
    """Say which share of the slots' time between two Unix times was somebody's."""
    held = sum(max(0.0, min(event.at, end) - max(event.at - event.engine_s, begin)) for event in events)
    return held / (end - begin) / SLOTS


async def _ask(at: Place) -> object:
    message = {"role": "user", "content": "hello"}
    return await at.client.chat.completions.create(model=MODEL, messages=[message], max_tokens=TOKENS)  # type: ignore[list-item]


async def _watch_engine(at: Place, shares: list[float]) -> None:
    """Note at every beat which share of the engine's slots runs."""
    last = None
    while True:
        beat = at.presence.alive().get("llm-0")
        if beat is not None and beat is not last and beat.engine is not None:
            shares.append(beat.engine.running / beat.slots)
        last = beat
        await asyncio.sleep(_STEP_S)


async def _events(at: Place) -> list[UsageEvent]:
    found = await read_stored(at.bus, routes.STREAM_USAGE, routes.usage_filter("dev"))
    return [event for one in found for event in events_in(one.data)]


async def _resumed(at: Place) -> float:
    """Kill the batch process; seconds until the one that comes after has rows in flight."""
    old = at.presence.alive()["batch-0"]
    began = time.monotonic()
    os.kill(old.pid, signal.SIGKILL)

    def is_back() -> bool:
        beat = at.presence.alive().get("batch-0")
        return beat is not None and beat.incarnation != old.incarnation and beat.in_flight > 0

    await eventually(is_back, within_s=60)
    at.target.roots["batch"] = at.presence.alive()["batch-0"].pid
    return time.monotonic() - began
