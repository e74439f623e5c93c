"""The supervisor's account of itself, `run/state.json`: what `status`, `logs` and `down` read."""

from __future__ import annotations

import msgspec

from inferbus.local.layout import Layout
from inferbus.private_files import write_private

STARTING, READY, RESTARTING, STOPPING, STOPPED, FAILED = (
    "starting", "ready", "restarting", "stopping", "stopped", "failed",
)  # fmt: skip


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One process as its supervisor sees it. `started` is Unix time, `port` what it serves (0: nothing of its own)."""

    name: str
    role: str
    state: str = STARTING
    pid: int = 0
    port: int = 0
    restarts: int = 0
    started: float = 0.0
    last_exit: str = ""


class PlatformState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole platform. `state` is starting, ready, stopping, stopped or failed; `error` says why it failed."""

    pid: int
    state: str = STARTING
    started: float = 0.0
    url: str = ""
    bus_url: str = ""
    region: str = "local"
    models: list[str] = []
    applied: list[str] = []
    processes: list[ProcessState] = []
    error: str = ""


def write_state(layout: Layout, state: PlatformState) -> None:
    write_private(layout.state, msgspec.json.format(msgspec.json.encode(state), indent=2))


def read_state(layout: Layout) -> PlatformState | None:
    """Read what the last supervisor wrote; None if there is nothing readable. Whether it still runs, the lock says."""
    try:
        return msgspec.json.decode(layout.state.read_bytes(), type=PlatformState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
