"""Rolling restarts: the processes of a running platform replaced one after the other, so that no request notices.

A process that alone serves its pool (or the HTTP socket) is relieved by a new one of another name before it is drained;
any other is drained first and comes back under its name. The bus server restarts in place: its queue is on disk, clients
reconnect, gateways hold new requests meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from inferbus.contracts.presence import READY as SERVING
from inferbus.local.child import Child
from inferbus.local.crew import Crew, StartFailed
from inferbus.local.processes import (
    BATCH,
    FEATURES,
    GATEWAY,
    LEDGER,
    NATS,
    TOPOLOGY,
    VECTORS,
    WORKERS,
    free_name,
    pool_of,
    renamed,
)
from inferbus.local.state import READY

_ORDER = (NATS, TOPOLOGY, LEDGER, FEATURES, *WORKERS, VECTORS, BATCH, GATEWAY)
"""What others wait for comes first: those of another release may need streams and buckets that only its topology makes, and
permissions that the bus server reads when it starts."""
_BACK_S = 30.0

Say = Callable[[str], None]


class RestartFailed(Exception):
    """What was asked for cannot be done, or a new process did not start; the message says which and what runs."""


class Rolling:
    """Restarts processes of a crew, never two at once."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._turn = asyncio.Lock()

    async def restart(self, names: list[str], say: Say) -> None:
        """Restart the processes named, or all of them; `say` hears what happens.

        Raises:
            RestartFailed: a name is unknown, another restart is under way, or a new process does not start: what has
                not been restarted by then stays as it is.
        """
        if self._turn.locked():
            raise RestartFailed("a restart is under way already")
        async with self._turn:
            for child in self._chosen(names):
                begun = time.monotonic()
                try:
                    await self._restart(child, say)
                except StartFailed as exc:
                    raise RestartFailed(str(exc)) from exc
                say(f"{child.spec.name}: done after {time.monotonic() - begun:.1f} s")

    def _chosen(self, names: list[str]) -> list[Child]:
        children = sorted(self._crew.children, key=lambda child: _ORDER.index(child.spec.role))
        if unknown := set(names) - {child.spec.name for child in children}:
            known = ", ".join(child.spec.name for child in children)
            raise RestartFailed(f"no process is named {', '.join(sorted(unknown))}; there are: {known}")
        return [child for child in children if not names or child.spec.name in names]

    async def _restart(self, child: Child, say: Say) -> None:
        if child.state.state == READY and await self._is_alone(child):
            await self._relieve(child, say)
        else:
            await self._in_place(child, say)

    async def _is_alone(self, child: Child) -> bool:
        """Whether nobody else would take new requests: nobody serves its pool, or the socket."""
        spec = child.spec
        if spec.role == FEATURES:
            return not any(other is not child and _does_the_same(other, child) for other in self._crew.children)
        if spec.role not in (GATEWAY, *WORKERS):
            return False
        others = [
            beat for name, beat in (await self._crew.beats()).items() if name != spec.name and beat.state == SERVING
        ]
        if spec.role in WORKERS:
            return not any(pool_of(spec) in beat.pools for beat in others)
        gateways = {other.spec.name for other in self._crew.children if other.spec.role == GATEWAY}
        return not any(beat.process in gateways for beat in others)

    async def _relieve(self, child: Child, say: Say) -> None:
        name = free_name(child.spec.name, {other.spec.name for other in self._crew.children})
        say(f"{child.spec.name}: alone at its work, so {name} starts first")
        relief = self._crew.add(renamed(child.spec, name))
        try:
            await self._crew.until_ready(relief)
        except StartFailed:
            say(f"{child.spec.name}: goes on, {name} does not start")
            await self._crew.retire(relief)
            raise
        say(f"{name}: ready; draining {child.spec.name}")
        await self._crew.retire(child)

    async def _in_place(self, child: Child, say: Say) -> None:
        if child.state.pid:
            say(f"{child.spec.name}: {'stopping' if child.spec.role == NATS else 'draining'}")
        await child.stop()
        say(f"{child.spec.name}: starting")
        fresh = self._crew.add(child.spec, in_place_of=child)
        await self._crew.until_ready(fresh)
        if child.spec.role == NATS:
            await self._until_all_are_back()

    async def _until_all_are_back(self) -> None:
        """Wait for everybody's reconnection: whatever is restarted next would otherwise find nobody to relieve it."""
        others = [child for child in self._crew.children if child.spec.role != NATS and child.state.state == READY]
        await asyncio.gather(*(self._crew.until_ready(child, _BACK_S) for child in others))


def _does_the_same(other: Child, child: Child) -> bool:
    """Whether another features process is at work that reads, or writes, as this one does."""
    roles = [one.spec.env.get("INFERBUS_FEATURES_ROLE", "") for one in (other, child)]
    return other.spec.role == FEATURES and other.state.state == READY and roles[0] in (roles[1], "both")
