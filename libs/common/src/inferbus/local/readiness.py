"""When is a process ready? Asked while something starts, never afterwards: an idle supervisor does nothing."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from inferbus.bus import Bus
from inferbus.contracts.presence import READY
from inferbus.presence import PresenceTable
from inferbus.settings import BusSettings

_POLL_S = 0.05
_PROBE_TIMEOUT_S = 2.0


class BusAddress(msgspec.Struct, frozen=True):
    """What a nats-server says it listens on; the file is `nats-server_<pid>.ports`."""

    nats: list[str]


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


async def present(settings: BusSettings, names: Iterable[str], on_ready: Callable[[str], None]) -> None:
    """Wait until every process named beats as ready; `on_ready` hears of each when it is.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    missing = set(names)
    bus = await Bus.connect(settings, name="inferbus-up")
    try:
        table = PresenceTable(bus, settings.region)
        await table.start()
        try:
            while missing:
                alive = table.alive()
                for name in sorted(missing):
                    if name in alive and alive[name].state == READY:
                        missing.discard(name)
                        on_ready(name)
                await asyncio.sleep(_POLL_S)
        finally:
            await table.stop()
    finally:
        await bus.close()


async def answering(host: str, port: int) -> None:
    """Wait until the gateway's own `/health/ready` says so."""
    while not await asyncio.to_thread(_is_ready, host, port):  # noqa: ASYNC110  # another process: no event to wait for
        await asyncio.sleep(_POLL_S)


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
