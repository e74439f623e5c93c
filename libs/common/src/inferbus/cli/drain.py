"""`inferbus drain`: asks a process over the bus to end, and shows how far it is."""

from __future__ import annotations

import asyncio
import time

import msgspec
import typer
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.cli.connection import connected
from inferbus.contracts.presence import DRAINING, GONE, Presence
from inferbus.errors import NotFound
from inferbus.process.drain import ask_to_drain
from inferbus.process.presence import SILENT_S

_FIRST_BEAT_S = 3.0


class Draining:
    """One process, watched until it is gone. Another incarnation of its name is not it."""

    def __init__(self, bus: Bus, process: str) -> None:
        self._bus = bus
        self._process = process
        self._beats: asyncio.Queue[Presence] = asyncio.Queue()
        self._shown = ""

    async def run(self, timeout_s: float) -> int:
        """Ask, and wait for the end. Returns the exit status: 0 gone, 1 still there.

        Raises:
            NotFound: no process of that name lives.
        """
        await self._bus.subscribe(routes.presence(self._bus.region, self._process), self._on_beat)
        beat = await self._next(_FIRST_BEAT_S)
        if beat is None or beat.state == GONE:
            raise NotFound(f"no process named {self._process!r} is on the bus; `inferbus status` shows them")
        incarnation, give_up = beat.incarnation, time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            if beat.state != DRAINING:
                await ask_to_drain(self._bus, self._process)
            self._show(beat)
            left_s = max(0.0, give_up - time.monotonic())
            following = await self._next(min(2 * SILENT_S, left_s))
            if following is None and left_s >= 2 * SILENT_S:
                typer.echo(f"{self._process}: fell silent", err=True)
                return 1
            if following is not None and (following.state == GONE or following.incarnation != incarnation):
                typer.echo(f"{self._process}: drained")
                return 0
            beat = following or beat
        typer.echo(f"{self._process}: still has {beat.in_flight} in flight after {timeout_s:g} s", err=True)
        return 1

    async def _on_beat(self, message: Msg) -> None:
        self._beats.put_nowait(msgspec.json.decode(message.data, type=Presence))

    async def _next(self, within_s: float) -> Presence | None:
        try:
            return await asyncio.wait_for(self._beats.get(), within_s)
        except TimeoutError:
            return None

    def _show(self, beat: Presence) -> None:
        text = f"{self._process}: {beat.state}, {beat.in_flight} in flight"
        if text != self._shown:
            self._shown = text
            typer.echo(text)


async def drain_process(process: str, timeout_s: float) -> int:
    """Drain one process of the bus. Returns the exit status.

    Raises:
        NotRunning: there is no bus to ask on. NotFound: no such process. DependencyDown: the bus is away.
    """
    async with connected() as bus:
        return await Draining(bus, process).run(timeout_s)
