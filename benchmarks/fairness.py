"""A small tenant beside one that floods the same pool: what it waits, against the same occupancy by equal tenants.

    .venv/bin/python benchmarks/fairness.py [--seconds 8] [--rounds 3]

A real nats-server, a worker process with the simulator (8 slots, 5 ms a token) and admission in this process; no HTTP. Every
tenant is a closed loop of so many open requests of 8 to 24 tokens. A latency is from admission to the last byte; one
still open when the time is over counts with its age if it is older than all answers were old ("over" in the table). Every
scenario runs once in every round. Exit status 1 if the small tenant's p99 beside the flood, with buckets, is over 1.5 times
that beside equal tenants which keep the same slots busy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec
import uvloop

from inferbus import routes
from inferbus.admission.admit import Admission, Ask
from inferbus.admission.identity import Identity
from inferbus.answers.asker import Asker
from inferbus.answers.exchange import Ended
from inferbus.bus import Bus
from inferbus.contracts.models import Buckets, Limits, ModelEntry
from inferbus.contracts.presence import READY, Presence
from inferbus.errors import TenantOverloaded
from inferbus.models import ModelRegistry, apply_model
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.telemetry import logs
from inferbus.testing import NatsServer, eventually
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.places import ROOT
from inferbus_bench.process import Process
from inferbus_bench.report import grid, verdict_table
from inferbus_bench.verdicts import Verdict

SLOTS, ITL_S, TOKENS = 8, 0.005, (8, 24)
SMALL, FLOOD = "small", "flood"
SMALL_OPEN, FLOOD_OPEN = 4, 500
MOST = 1.5
_WARM_UP_S = 2.0
_REFUSED_PAUSE_S = 0.05


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps how many requests open, and how the queue is split. `judged`: its p99 must stay within the bound."""

    title: str
    tenants: dict[str, int]
    buckets: Buckets = Buckets()
    bound: int = 1024
    judged: bool = False


def scenarios() -> list[Scenario]:
    """Give all of them; the first is what the others are held against."""
    flooded = {SMALL: SMALL_OPEN, FLOOD: FLOOD_OPEN}
    together = routes.bucket_of(FLOOD, 16)
    crowd = {SMALL: SMALL_OPEN} | {f"equal-{number}": SMALL_OPEN for number in range(3)}
    equal = {SMALL: SMALL_OPEN, "equal": SLOTS - SMALL_OPEN}
    if routes.bucket_of(SMALL, 16) == together:
        raise RuntimeError("the two share a bucket of 16: choose other names")
    return [
        Scenario(title="equal tenants, 4 + 4 open", tenants=equal, buckets=Buckets(count=16)),
        Scenario(title="equal tenants, 4 x 4 open", tenants=crowd, buckets=Buckets(count=16)),
        Scenario(title="flood, 1 bucket", tenants=flooded),
        Scenario(title="flood, 16 buckets", tenants=flooded, buckets=Buckets(count=16), judged=True),
        Scenario(
            title="flood, 16 buckets, small weighs 4", tenants=flooded, judged=True,
            buckets=Buckets(count=16, weights={SMALL: 4}),
        ),
        Scenario(
            title="flood, 2 buckets, flood pinned", tenants=flooded, judged=True,
            buckets=Buckets(count=2, pinned={FLOOD: 0}),
        ),
        Scenario(
            title="flood, small in its bucket", tenants=flooded,
            buckets=Buckets(count=16, pinned={SMALL: together, FLOOD: together}),
        ),
        Scenario(
            title="the same, tenants bound to 50", tenants=flooded, bound=50,
            buckets=Buckets(count=16, pinned={SMALL: together, FLOOD: together}),
        ),
    ]  # fmt: skip


class Figures:
    """What was measured of one scenario, all rounds together. Latencies in seconds."""

    def __init__(self) -> None:
        self.small_s: list[float] = []
        self.unanswered_s: list[float] = []
        self.ended: dict[str, int] = {}
        self.tokens = 0
        self.seconds = 0.0

    def text_ms(self, q: float) -> str:
        """Mark what is only known to be more: those whose answer did not come within the time are that old at least."""
        value = self.quantile_ms(q)
        return f"{'over ' if value > max(self.small_s, default=0.0) * 1000 else ''}{value:.0f}"

    def quantile_ms(self, q: float) -> float:
        longest = max(self.small_s, default=0.0)
        ordered = sorted([*self.small_s, *(age for age in self.unanswered_s if age > longest)])
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000 if ordered else float("inf")

    @property
    def occupancy(self) -> float:
        """The slots' share of time in which they made tokens."""
        return self.tokens * ITL_S / (self.seconds * SLOTS)


class Door:
    """Admission, and what it needs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._models = ModelRegistry(bus)
        self._presence = PresenceTable(bus, bus.region)
        self._asker = Asker(bus, self._presence)
        self._beacon = Beacon(bus, self._describe)
        self.admission = Admission(bus, self._models, self._asker, self._presence)

    def _describe(self) -> Presence:
        return Presence(
            process="gateway-0", role="gateway", incarnation="1", region=self._bus.region, state=READY,
            asker=self._asker.id,
        )  # fmt: skip

    def worker_is_ready(self) -> bool:
        return any(beat.role == "worker" and beat.state == READY for beat in self._presence.alive().values())

    async def __aenter__(self) -> Self:
        for part in (self._presence, self._asker, self._models, self._beacon):
            await part.start()
        await self._models.loaded()
        return self

    async def __aexit__(self, *_: object) -> None:
        for part in (self._asker, self._models, self._beacon, self._presence):
            await part.stop()

    async def ask(self, tenant: str, tokens: int) -> None:
        """Ask and read to the end."""
        messages = [{"role": "user", "content": "hello"}]
        body = msgspec.json.encode({"model": "m", "messages": messages, "max_tokens": tokens, "stream": True})
        ask = Ask(model="m", task="chat", path="/v1/chat/completions", body=body, streamed=True, deadline_s=300)
        exchange = await self.admission.admit(Identity(tenant=tenant), ask)
        try:
            while not isinstance(await exchange.next(), Ended):
                pass
        finally:
            exchange.close()


@asynccontextmanager
async def platform(folder: Path, scenario: Scenario) -> AsyncIterator[Door]:
    limits = Limits(max_pending_per_tenant=scenario.bound)
    entry = ModelEntry(name="m", pool="m", buckets=scenario.buckets, limits=limits)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(folder, ROOT / "deploy/nats/nats.conf"))
        await server.reconcile(entry)
        admin, bus = await server.connect("admin"), await server.connect("gateway")
        stack.push_async_callback(admin.close)
        stack.push_async_callback(bus.close)
        await apply_model(admin, entry)
        door = await stack.enter_async_context(Door(bus))
        settings = {"pool": "m", "served_name": "m", "engine": "simulator"}
        settings |= {"simulator_slots": str(SLOTS), "simulator_itl_s": str(ITL_S)}
        env = os.environ | {f"INFERBUS_LLM_WORKER_{name.upper()}": value for name, value in settings.items()}
        env |= {
            "INFERBUS_BUS_URL": server.url,
            "INFERBUS_BUS_USER": "worker",
            "INFERBUS_BUS_PASSWORD": server.passwords["worker"],
        }
        argv = [sys.executable, "-m", "inferbus_llm_worker"]
        await stack.enter_async_context(Process(argv, env=env, log=folder / "worker.log", folder=folder))
        await eventually(door.worker_is_ready, within_s=60)
        yield door


async def measure(scenario: Scenario, figures: Figures, seconds: float, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="inferbus-fairness-") as folder:
        async with platform(Path(folder), scenario) as door:
            begin = time.monotonic() + _WARM_UP_S
            loops = [
                asyncio.create_task(keep_open(door, tenant, figures, begin, random.Random(f"{seed}-{tenant}-{number}")))
                for tenant, count in scenario.tenants.items()
                for number in range(count)
            ]
            await asyncio.sleep(_WARM_UP_S + seconds)
            figures.seconds += time.monotonic() - begin
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            for loop in loops:
                if not loop.cancelled():
                    loop.result()


async def keep_open(door: Door, tenant: str, figures: Figures, begin: float, chance: random.Random) -> None:
    """Ask again and again, one at a time; count what began after the warm-up."""
    while True:
        tokens = chance.randint(*TOKENS)
        asked = time.monotonic()
        try:
            await door.ask(tenant, tokens)
        except TenantOverloaded:
            await asyncio.sleep(_REFUSED_PAUSE_S)
            continue
        except asyncio.CancelledError:
            if tenant == SMALL:
                figures.unanswered_s.append(time.monotonic() - asked)
            raise
        ended = time.monotonic()
        if ended >= begin:
            figures.ended[tenant] = figures.ended.get(tenant, 0) + 1
            figures.tokens += tokens
            if tenant == SMALL:
                figures.small_s.append(ended - asked)


def table(measured: list[tuple[Scenario, Figures]]) -> str:
    head = ["scenario", "small p50 ms", "p99 ms", "against equal tenants", "its requests", "others'", "slots busy"]
    rows = []
    base = measured[0][1].quantile_ms(0.99)
    for scenario, figures in measured:
        small = figures.ended.get(SMALL, 0)
        rows.append([
            scenario.title,
            figures.text_ms(0.5),
            figures.text_ms(0.99),
            f"{figures.quantile_ms(0.99) / base:.2f}",
            str(small),
            str(sum(figures.ended.values()) - small),
            f"{figures.occupancy:.0%}",
        ])  # fmt: skip
    return grid(head, rows)


async def main(seconds: float, rounds: int) -> int:
    logs.configure("fairness", "error")
    measured = [(scenario, Figures()) for scenario in scenarios()]
    async with OtherPrograms() as others:
        for number in range(rounds):
            for scenario, figures in measured:
                await measure(scenario, figures, seconds, number)
                print(f"round {number + 1}: {scenario.title}: p99 {figures.quantile_ms(0.99):.0f} ms", file=sys.stderr)
    base = measured[0][1].quantile_ms(0.99)
    found = [
        Verdict(
            what=f"p99 against equal tenants: {scenario.title}", value=figures.quantile_ms(0.99) / base, limit=MOST,
            unit="times",
        )
        for scenario, figures in measured
        if scenario.judged
    ]  # fmt: skip
    print(f"\n{heading(others.cores, 'fairness.py')}\n\n{verdict_table(found)}\n\n{table(measured)}")
    return 0 if all(one.met for one in found) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.exit(uvloop.run(main(arguments.seconds, arguments.rounds)))
