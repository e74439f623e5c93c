"""When is a process ready? Asked while something starts, never afterwards: an idle supervisor does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from inferbus.bus import Bus
from inferbus.contracts.presence import READY, Presence
from inferbus.process.presence import BEAT_S, PresenceTable
from inferbus.settings import BusSettings

_POLL_S = 0.05
_ROUND_S = 4.5 * BEAT_S  # the slowest beat every fourth time


class BusAddress(msgspec.Struct, frozen=True):
    """What a nats-server says it listens on; the file is `nats-server_<pid>.ports`."""

    nats: list[str]
    monitoring: list[str] = []


async def bus_port(ports: Path, pid: Callable[[], int]) -> int:
    """Wait until the bus server has written which port it listens on. `pid`: of the current attempt."""
    while True:
        file = ports / f"nats-server_{pid()}.ports"
        try:
            return int(msgspec.json.decode(file.read_bytes(), type=BusAddress).nats[0].rsplit(":", 1)[1])
        except (FileNotFoundError, msgspec.DecodeError):  # not yet, or not yet whole
            await asyncio.sleep(_POLL_S)


async def listening(host: str, port: int) -> None:
    """Wait until somebody accepts connections."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_POLL_S)
        else:
            writer.close()
            return


async def present(settings: BusSettings, name: str, pid: Callable[[], int]) -> None:
    """Wait until a process beats as ready. `pid`: of the current attempt; one before it may still drain under the name.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    bus = await Bus.connect(settings, name="inferbus-up")
    try:
        table = PresenceTable(bus, settings.region)
        await table.start()
        try:
            while not _is_ready(table.alive().get(name), pid()):  # noqa: ASYNC110  # the table has no event for it
                await asyncio.sleep(_POLL_S)
        finally:
            await table.stop()
    finally:
        await bus.close()


async def beats(settings: BusSettings) -> dict[str, Presence]:
    """Listen for one round of presence: who lives on the bus, and how.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    bus = await Bus.connect(settings, name="inferbus-up")
    table = PresenceTable(bus, settings.region)
    try:
        await table.start()
        await asyncio.sleep(_ROUND_S)
        return table.alive()
    finally:
        await table.stop()
        await bus.close()


def _is_ready(beat: Presence | None, pid: int) -> bool:
    return beat is not None and beat.pid == pid and beat.state == READY
