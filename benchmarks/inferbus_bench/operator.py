"""What an operator does with a platform that is being measured: commands, its state, the bus as administrator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.usage import UsageEvent
from inferbus.ledger.reading import read_events
from inferbus.local.identities import settings_of
from inferbus.local.layout import Layout
from inferbus.local.state import PlatformState, read_state
from inferbus_bench.places import PLATFORM_BIN, ROOT

_COMMAND_S = 60.0


class Operator:
    """Of the platform whose state is in `home`."""

    def __init__(self, home: Path) -> None:
        self._layout = Layout(root=ROOT, home=home)
        env = {name: value for name, value in os.environ.items() if not name.startswith("INFERBUS_")}
        self._env = env | {"INFERBUS_HOME": str(home), "COLUMNS": "200"}

    @property
    def state(self) -> PlatformState:
        state = read_state(self._layout)
        assert state is not None
        return state

    def command(self, *arguments: str) -> str:
        """Run `inferbus <arguments>`; give what it printed.

        Raises:
            CalledProcessError: it failed.
        """
        argv = [str(PLATFORM_BIN / "inferbus"), *arguments]
        done = subprocess.run(
            argv, cwd=ROOT, env=self._env, check=True, stdout=subprocess.PIPE, text=True, timeout=_COMMAND_S
        )
        return done.stdout

    def new_key(self, *options: str) -> str:
        return self.command("keys", "create", *options).strip()

    def set_limits(self, scope: str, name: str, **limits: int) -> None:
        """Set limits, by the names of the fields of `LimitSet`."""
        options = [part for field, n in limits.items() for part in ("--" + field.replace("_", "-"), str(n))]
        self.command("limits", "set", scope, name, *options)

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        settings = settings_of(self._layout, "admin", url=self.state.bus_url)
        bus = await Bus.connect(settings, name="benchmark")
        try:
            yield bus
        finally:
            await bus.close()


def id_of(key: str) -> str:
    """Give a key's id: it stands in the key."""
    return key.split("-")[1]


async def work_left(bus: Bus) -> int:
    """Count the interactive requests of LLM pools that are queued or being worked on."""
    stream = routes.stream_infer(bus.region, "llm", routes.INTERACTIVE)
    answer = await bus.request(f"$JS.API.STREAM.INFO.{stream}")
    return int(msgspec.json.decode(answer.data)["state"]["messages"])


async def events_of(bus: Bus, tenant: str) -> list[UsageEvent]:
    """Read all the ledger has of a tenant."""
    return [event async for page in read_events(bus, tenant) for _, event in page]
