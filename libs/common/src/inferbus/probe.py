"""Is a process ready? Asked over the bus, for containers whose health port nobody outside knows.

    python -m inferbus.probe llm-0        exit status 0: it beats as ready; 1: it does not, or the bus is away

Connects with the container's own `INFERBUS_BUS_*`.
"""

from __future__ import annotations

import asyncio
import sys

from inferbus.bus import Bus
from inferbus.contracts.presence import READY
from inferbus.errors import DependencyDown
from inferbus.process.presence import PresenceTable
from inferbus.settings import BusSettings, from_env
from inferbus.telemetry import logs

_WAIT_S = 2.0  # four beats
_POLL_S = 0.05


async def is_ready(settings: BusSettings, process: str) -> bool:
    """Listen for the process's beats for up to two seconds.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    bus = await Bus.connect(settings, name=f"probe-{process}")
    table = PresenceTable(bus, settings.region)
    try:
        await table.start()
        async with asyncio.timeout(_WAIT_S):
            while process not in (alive := table.alive()) or alive[process].state != READY:  # noqa: ASYNC110  # another process: no event to wait for
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    else:
        return True
    finally:
        await table.stop()
        await bus.close()


def main(arguments: list[str]) -> int:
    """Give the exit status of `python -m inferbus.probe`."""
    logs.configure("probe", "error")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m inferbus.probe PROCESS\n")
        return 2
    try:
        return 0 if asyncio.run(is_ready(from_env(BusSettings, "bus"), arguments[0])) else 1
    except DependencyDown as exc:
        sys.stderr.write(f"{exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
