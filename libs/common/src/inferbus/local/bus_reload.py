"""Have the bus server read its users again, and know that it did: it keeps what it had where it cannot use the new ones."""

from __future__ import annotations

import asyncio
import urllib.request

import msgspec

from inferbus.local.crew import Crew
from inferbus.local.layout import Layout
from inferbus.local.processes import NATS
from inferbus.local.readiness import BusAddress

_WITHIN_S, _POLL_S = 5.0, 0.02


class ReloadFailed(Exception):
    """The server runs with what it had; the message says where to look."""


class _Variables(msgspec.Struct, frozen=True):
    config_load_time: str


async def reload_bus(crew: Crew, layout: Layout) -> None:
    """Reload. When this returns, revoked users are disconnected.

    Raises:
        ReloadFailed: the server is not there, or refused the configuration.
    """
    server = crew.named(NATS)
    if server is None or not server.state.pid:
        raise ReloadFailed("the bus server does not run; it reads its users when it starts")
    file = layout.ports / f"nats-server_{server.state.pid}.ports"
    try:
        monitor = msgspec.json.decode(file.read_bytes(), type=BusAddress).monitoring[0]
        before = await _loaded_at(monitor)
        server.hang_up()
        async with asyncio.timeout(_WITHIN_S):
            while await _loaded_at(monitor) == before:  # noqa: ASYNC110  # another process: no event to wait for
                await asyncio.sleep(_POLL_S)
    except (OSError, IndexError, msgspec.DecodeError, TimeoutError) as exc:
        raise ReloadFailed(f"the bus server did not take its new users ({exc!r}); see {server.log}") from exc


async def _loaded_at(monitor: str) -> str:
    def read() -> bytes:
        with urllib.request.urlopen(f"{monitor}/varz", timeout=_WITHIN_S) as answer:  # noqa: S310  # the server's own file says where
            found: bytes = answer.read()
            return found

    return msgspec.json.decode(await asyncio.to_thread(read), type=_Variables).config_load_time
