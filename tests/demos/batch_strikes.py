"""Strikes: SIGKILL for whatever works on a batch, one victim after the other, each counted when it is dead."""

from __future__ import annotations

import asyncio
import math
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.main_path import MainPath, Service

from inferbus.testing import eventually
from inferbus_batch.fail_points import PART_WRITTEN

COORDINATOR, CHUNKS, BETWEEN, ENGINE, NATS = (
    "coordinator", "chunk worker", "chunk worker, between write and commit", "engine worker", "nats-server",
)  # fmt: skip
MANY = {COORDINATOR: 8, CHUNKS: 12, ENGINE: 12, NATS: 6}
"""Strikes of each kind from outside; those between write and commit are the victim's own doing, at a fail point."""
BETWEEN_MANY = 14
CHUNK_ROWS = 50
_BATCH = {"chunk_slots": 2, "in_flight": 64, "chunk_rows": CHUNK_ROWS}
_ENGINE = {"simulator_itl_s": 0.05, "simulator_slots": 32}
_WAIT_S = 60.0
_PACE_S = 8.0
_LEASE_S = 8.0


class Crew:
    """Two of each kind that may die, and one chunk worker whose death is at a fail point. `killed` counts."""

    def __init__(self, path: MainPath, share: float = 1.0) -> None:
        """`share`: of all these strikes, for a short run."""
        self._path = path
        self._share = share
        self._running: dict[str, Service] = {}
        self._bus_is_there = asyncio.Lock()
        self.killed: Counter[str] = Counter()
        self.made: dict[str, int] = {}
        """Tokens engines said they had made, by incarnation: the last thing each did was to say so."""

    async def start(self) -> None:
        for n in range(2):
            for kind in (ENGINE, COORDINATOR, CHUNKS):
                await self._start(kind, n)

    async def strike_all(self, seed: int, progress: Callable[[], Awaitable[float]]) -> None:
        """Strike every kind as often as it has to be, spread over the work; `progress` goes from 0 to 1."""
        plan = [kind for kind, many in MANY.items() for _ in range(math.ceil(self._share * many))]
        random.Random(seed).shuffle(plan)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._between_write_and_commit())
            group.create_task(self._freeze_one(progress))
            for n, kind in enumerate(plan):
                await self._until(progress, 0.85 * n / len(plan))
                await self._strike(kind, n % 2)

    def note_tokens(self) -> None:
        """Note what the engines say they have made."""
        for beat in self._path.presence.alive().values():
            if beat.engine is not None and beat.process in self._running:
                self.made[beat.incarnation] = max(self.made.get(beat.incarnation, 0), beat.engine.generated_tokens)

    async def _start(self, kind: str, n: int) -> None:
        name = _name(kind, n)
        async with self._bus_is_there:
            if kind == ENGINE:
                self._running[name] = await self._path.worker(name, **_ENGINE)
            else:
                role = "coordinator" if kind == COORDINATOR else "chunks"
                self._running[name] = await self._path.batch(name, role=role, **_BATCH)

    async def _strike(self, kind: str, n: int) -> None:
        if kind == NATS:
            async with self._bus_is_there:
                await self._path.nats.restart()
            self.killed[NATS] += 1
            return
        victim = self._running[_name(kind, n)]
        if kind == ENGINE:
            await self._last_word(victim.name)
        await victim.kill()
        self.killed[kind] += await victim.ended() == -signal.SIGKILL
        await self._start(kind, n)

    async def _between_write_and_commit(self) -> None:
        """Chunk workers that kill themselves when a part is written and not committed yet."""
        name = "chunk-worker-between"
        for _ in range(math.ceil(self._share * BETWEEN_MANY)):
            async with self._bus_is_there:
                victim = await self._path.batch(name, role="chunks", fail_point=PART_WRITTEN, fail_after=1, **_BATCH)
            self.killed[BETWEEN] += await victim.ended(_WAIT_S) == -signal.SIGKILL

    async def _freeze_one(self, progress: Callable[[], Awaitable[float]]) -> None:
        """Stop a chunk worker for longer than its lease: what it does then, another has done."""
        async with self._bus_is_there:
            frozen = await self._path.batch("chunk-worker-frozen", role="chunks", **_BATCH)
        for target in (0.2, 0.5):
            while await progress() < target:
                await asyncio.sleep(0.1)
            frozen.signal(signal.SIGSTOP)
            await asyncio.sleep(2 * _LEASE_S)  # what is slept through is the point
            frozen.signal(signal.SIGCONT)

    async def _last_word(self, name: str) -> None:
        """Wait for an engine's next beat, so that what it has made until it dies is known."""
        before = self._path.presence.alive().get(name)
        await eventually(lambda: self._path.presence.alive().get(name) is not before, within_s=_WAIT_S)
        self.note_tokens()

    async def _until(self, progress: Callable[[], Awaitable[float]], target: float) -> None:
        """Wait for so much progress, or for a while: under blows it may be slow."""

        async def reached() -> bool:
            self.note_tokens()
            return await progress() >= target

        try:
            await eventually(reached, within_s=_PACE_S)
        except AssertionError:
            return


def _name(kind: str, n: int) -> str:
    return f"{kind}-{n}".replace(" ", "-")
