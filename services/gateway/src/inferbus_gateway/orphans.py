"""Orphans: a durable request whose gateway and worker are both gone is handed back, by a gateway where somebody reads it.

While its gateway lives, that one does it. Otherwise only the end of the lease would, 20 s later; so who reads an answer
here has this gateway look whether its worker is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.contracts.durable import Claim
from inferbus.durable.delta_writer import decode_deltas
from inferbus.durable.reader import DurableReader
from inferbus.errors import InferbusError
from inferbus.process.presence import PresenceTable
from inferbus.ticks import until_tick

_LOOK_S = 1.0
_SETTLED_LOOKS = 4
"""Looks before this process can tell who is gone: it must have heard everybody first."""
log = structlog.get_logger()


class Orphans:
    """Looks once a second at the answers that are read here. `is_orphan` says whether a request's own gateway is gone."""

    def __init__(self, bus: Bus, presence: PresenceTable, is_orphan: Callable[[str, str], Awaitable[bool]]) -> None:
        self._bus = bus
        self._presence = presence
        self._is_orphan = is_orphan
        self._readers: set[DurableReader] = set()
        self._handed_back: dict[tuple[str, str], int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_looking(), name="orphans")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def watch(self, reader: DurableReader) -> None:
        """Look after an answer until its reader closes."""
        self._readers.add(reader)
        reader.on_closed(lambda: self._readers.discard(reader))

    async def _keep_looking(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(until_tick(_LOOK_S))
            looks = looks + 1 if self._bus.connected else 0
            if looks > _SETTLED_LOOKS:
                try:
                    await self._look()
                except InferbusError as exc:
                    log.debug("orphans_wait", error=exc.message)
                except Exception:  # without this loop abandoned requests wait for their lease
                    log.exception("orphans_failed")

    async def _look(self) -> None:
        here = {beat.incarnation for beat in self._presence.alive().values()}
        gone = {
            reader.name: reader.claim
            for reader in self._readers
            if reader.claim is not None and not reader.ended and reader.claim.incarnation not in here
        }
        self._handed_back = {name: run for name, run in self._handed_back.items() if name in gone}
        for name, claim in gone.items():
            if self._handed_back.get(name) != claim.run and await self._is_orphan(*name):
                self._handed_back[name] = claim.run
                await self._hand_back(*name, claim)

    async def _hand_back(self, tenant: str, request_id: str, claim: Claim) -> None:
        """Hand the message back for a dead worker, unless another one has it by now."""
        found = [decode_deltas(one.data) for one in await read_stored(
            self._bus, routes.STREAM_DELTAS, routes.deltas(tenant, request_id)
        )]  # fmt: skip
        claims = [message for message in found if isinstance(message, Claim)]
        if claims and claims[-1].run == claim.run and claim.ack_subject:
            log.info("orphan_handed_back", request_id=request_id, worker=claim.worker, attempt=claim.attempt)
            await self._bus.publish(claim.ack_subject, b"-NAK")
