"""The faults: what is done to whom, how it is undone, and what clients may notice of it.

A fault counts only if its victim held at least one open stream at that moment, and at least one of those went on
afterwards. A process to be killed is stopped first, so that what it held is known exactly when it dies.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

import msgspec
from tests.chaos.observer import ENDED, STARTED
from tests.chaos.platform import ChaosPlatform
from tests.chaos.streaming import Received

from inferbus.testing import eventually, freeze

_MOMENT_S = 2.0
_ANY_MOMENT_S = 0.6
_HOLDS_S = 20.0


class Hit(msgspec.Struct, kw_only=True):
    """One fault as it was. `at`: monotonic seconds; `held`: the victim's open streams with the pieces they had then;
    `takeovers`: seconds to the first new token of each that moved, by request id."""

    kind: str
    victim: str
    at: float
    held: list[tuple[Received, int]]
    acks_in_flight: int
    takeovers: dict[str, float] = {}


Undo = Callable[[], Awaitable[None]]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of fault. `weight`: how often among the others. `moves`: a stream the victim held can only go on elsewhere.
    `refuses`: it keeps the gateway from the bus for longer than a request is held, so that new ones may be a 503.
    `stops_first`: the process that is stopped before it is killed. `spare`: what the victim held is taken over before the
    victim comes back."""

    name: str
    victims: str
    weight: int
    inject: Callable[[ChaosPlatform, str, random.Random], Awaitable[Undo]]
    moves: bool = True
    refuses: bool = False
    stops_first: Callable[[ChaosPlatform, str], int] | None = None
    spare: bool = False


async def hit(
    platform: ChaosPlatform, kind: Kind, draw: random.Random, open_streams: Callable[[], list[Received]]
) -> tuple[Hit, Undo]:
    """Wait for a victim that holds a stream and hit it."""
    victim = await _choose(platform, kind, draw, open_streams)
    await _wait_for_a_moment(platform, victim if kind.victims == "worker" else "", draw)
    at = time.monotonic()
    if kind.stops_first is not None:
        await freeze(kind.stops_first(platform, victim))
        await platform.observer.barrier()
    held = _held(platform, kind, victim, open_streams())
    found = Hit(
        kind=kind.name, victim=victim, at=at,
        held=[(stream, len(stream.times)) for stream in held], acks_in_flight=platform.observer.acks_in_flight(),
    )  # fmt: skip
    return found, await kind.inject(platform, victim, draw)


async def _choose(
    platform: ChaosPlatform, kind: Kind, draw: random.Random, open_streams: Callable[[], list[Received]]
) -> str:
    names = {
        "worker": platform.workers,
        "gateway": platform.gateways,
        "durable gateway": platform.gateways[-1:],
        "bus": ["nats"],
    }[kind.victims]
    holders: list[str] = []

    def somebody_holds_one() -> bool:
        holders[:] = [name for name in names if _held(platform, kind, name, open_streams())]
        return bool(holders)

    await eventually(somebody_holds_one, within_s=_HOLDS_S)
    return draw.choice(holders)


def _held(platform: ChaosPlatform, kind: Kind, victim: str, streams: list[Received]) -> list[Received]:
    if kind.victims == "worker":
        return platform.observer.held_by(victim, streams)
    return [one for one in streams if one.times and not one.ended and victim in ("nats", one.gateway)]


async def _wait_for_a_moment(platform: ChaosPlatform, worker: str, draw: random.Random) -> None:
    """Any time, or the very moment an attempt starts or ends: its acknowledgement is then on its way."""
    what = draw.choice(["", "", STARTED, ENDED])
    if what:
        await platform.observer.moment(what, worker, _MOMENT_S)
    else:
        await asyncio.sleep(draw.uniform(0, _ANY_MOMENT_S))


def _process(platform: ChaosPlatform, victim: str) -> int:
    return platform.members[victim].pid


def _engine(platform: ChaosPlatform, victim: str) -> int:
    return platform.engine_of(victim).pid


# --- what is done -----------------------------------------------------------------------------------------------------


async def _kill(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    await platform.members[victim].kill()
    return lambda: platform.restore(victim)


async def _kill_engine(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    before = platform.observer.restarts(victim)
    os.kill(_engine(platform, victim), signal.SIGKILL)

    async def until_restarted() -> None:
        await platform.full_strength(also=lambda: platform.observer.restarts(victim) > before)

    return until_restarted


async def _drain(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    platform.members[victim].signal(signal.SIGTERM)
    return lambda: platform.restore(victim)


async def _freeze(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    service = platform.members[victim]
    await service.freeze()

    async def thaw() -> None:
        await asyncio.sleep(draw.uniform(3, 6))
        service.signal(signal.SIGCONT)

    return thaw


async def _cut(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    link = platform.links[victim]
    await link.refuse()

    async def join() -> None:
        await asyncio.sleep(draw.uniform(1, 5))
        await link.allow()

    return join


async def _stall(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    link = platform.links[victim]
    link.freeze()

    async def thaw() -> None:
        await asyncio.sleep(draw.uniform(1, 5))
        link.thaw()

    return thaw


async def _kill_bus(platform: ChaosPlatform, victim: str, draw: random.Random) -> Undo:
    await platform.nats.kill(signal.SIGKILL)
    return platform.nats.start


KILL_WORKER = Kind(
    name="SIGKILL worker, a spare takes over",
    victims="worker",
    weight=5,
    inject=_kill,
    stops_first=_process,
    spare=True,
)
RESTART_WORKER = Kind(
    name="SIGKILL worker, restarted at once", victims="worker", weight=3, inject=_kill, stops_first=_process
)
KILL_ENGINE = Kind(
    name="SIGKILL engine", victims="worker", weight=6, inject=_kill_engine, stops_first=_engine, spare=True
)
DRAIN_WORKER = Kind(name="SIGTERM worker", victims="worker", weight=3, inject=_drain, moves=False)
FREEZE_WORKER = Kind(name="SIGSTOP worker 3-6 s", victims="worker", weight=3, inject=_freeze)
CUT_WORKER = Kind(name="link worker-bus cut 1-5 s", victims="worker", weight=2, inject=_cut, moves=False)
STALL_WORKER = Kind(name="link worker-bus silent 1-5 s", victims="worker", weight=2, inject=_stall, moves=False)
CUT_GATEWAY = Kind(
    name="link gateway-bus cut 1-5 s", victims="gateway", weight=2, inject=_cut, moves=False, refuses=True
)
STALL_GATEWAY = Kind(
    name="link gateway-bus silent 1-5 s", victims="gateway", weight=2, inject=_stall, moves=False, refuses=True
)
KILL_BUS = Kind(name="SIGKILL nats-server", victims="bus", weight=2, inject=_kill_bus, moves=False, refuses=True)
KILL_GATEWAY = Kind(
    name="SIGKILL gateway, clients come back", victims="durable gateway", weight=3, inject=_kill, moves=False,
    stops_first=_process,
)  # fmt: skip
"""Of the gateway that only durable clients ask: an ordinary stream cannot survive its own connection's end."""

SIMULATED = (
    KILL_WORKER, RESTART_WORKER, DRAIN_WORKER, FREEZE_WORKER, CUT_WORKER, STALL_WORKER, CUT_GATEWAY, STALL_GATEWAY, KILL_BUS,
    KILL_GATEWAY,
)  # fmt: skip
REAL = (KILL_WORKER, KILL_ENGINE)
