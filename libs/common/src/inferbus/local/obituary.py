"""Say on the bus that a process died. Its supervisor knows at once; everybody else would wait for 1.5 s of silence.

Only an incarnation the supervisor itself had named, and saw end, is declared gone, and before the next one of the name
starts: nobody who lives can be meant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.presence import GONE, Presence
from inferbus.errors import DependencyDown
from inferbus.local.processes import (
    BATCH,
    FEATURES,
    GATEWAY,
    LEDGER,
    TOPOLOGY,
    TRITON_WORKER,
    VECTORS,
    WORKER,
    ProcessSpec,
)
from inferbus.settings import BusSettings

_PATIENCE_S = 1.0
_USERS = {
    GATEWAY: "gateway",
    WORKER: "worker",
    TRITON_WORKER: "worker",
    TOPOLOGY: "operator",
    LEDGER: "ledger",
    BATCH: "batch",
    VECTORS: "vectors",
    FEATURES: "features",
}
log = structlog.get_logger()


async def announce_death(settings: Callable[[str], BusSettings], spec: ProcessSpec, incarnation: str) -> None:
    """Publish the last beat a process could not send itself, with the rights it had. A bus that is away hears nothing."""
    user = _USERS.get(spec.role)
    if user is None:
        return
    try:
        await asyncio.wait_for(_publish(settings(user), spec, user, incarnation), _PATIENCE_S)
    except (DependencyDown, TimeoutError) as exc:
        log.debug("death_not_announced", process=spec.name, error=repr(exc))


async def _publish(settings: BusSettings, spec: ProcessSpec, role: str, incarnation: str) -> None:
    bus = await Bus.connect(msgspec.structs.replace(settings, connect_timeout_s=_PATIENCE_S), name="inferbus-up")
    try:
        beat = Presence(process=spec.name, role=role, incarnation=incarnation, region=settings.region, state=GONE)
        await bus.publish(routes.presence(settings.region, spec.name), msgspec.json.encode(beat))
    finally:
        await bus.close()
