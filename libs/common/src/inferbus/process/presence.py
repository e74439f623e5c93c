"""Presence: say that this process lives (`Beacon`), and know who else does (`PresenceTable`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.presence import GONE, READY, Presence
from inferbus.ticks import TICK_S, until_tick

BEAT_S = TICK_S
SILENT_S = 1.5
_CHECK_S = 0.5
_HEARD_S = 0.05  # after a tick, when whoever lives has been heard: not half a second later
_SWEEP_S = 0.2
_MAX_REPLACED = 1024
log = structlog.get_logger()
_decode = msgspec.json.Decoder(Presence).decode


class Beacon:
    """Publishes `describe()` every half second (times `Presence.every`), and once more with state `gone` when it stops."""

    def __init__(self, bus: Bus, describe: Callable[[], Presence]) -> None:
        self._bus = bus
        self._describe = describe
        self._every = 1
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._beat(), name="presence-beacon")

    async def now(self) -> None:
        """Publish at once: a state change need not wait for the next beat."""
        await self._send(self._describe())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._bus.connected:
            await self._send(msgspec.structs.replace(self._describe(), state=GONE))

    async def _beat(self) -> None:
        while True:
            try:
                if self._bus.connected:
                    await self._send(self._describe())
            except Exception:  # without beats everybody takes this process for dead
                log.exception("beat_failed")
            await asyncio.sleep(until_tick(self._every * BEAT_S))

    async def _send(self, presence: Presence) -> None:
        self._every = presence.every
        await self._bus.publish(routes.presence(presence.region, presence.process), msgspec.json.encode(presence))


class PresenceTable:
    """Who lives in a region. A process silent for 1.5 s is presumed dead; fencing makes a mistake harmless."""

    def __init__(self, bus: Bus, region: str) -> None:
        self._bus = bus
        self._region = region
        self._beats: dict[str, tuple[Presence, float]] = {}
        self._backlog: dict[str, int] = {}
        self._replaced: dict[str, bool] = {}
        self._askers: dict[str, float] = {}
        self._ended_askers: dict[str, None] = {}
        self._lost: list[Callable[[Presence], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._checked = self._swept = self._made = time.monotonic()

    async def start(self) -> None:
        await self._bus.listen(routes.presence_all(self._region), self._on_beat)
        self._bus.on_reconnect(self._forgive)
        self._task = asyncio.create_task(self._check(), name="presence-table")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def settled(self) -> bool:
        """Whether everybody who lives has been heard since this table is there: not in its first 1.5 s."""
        return time.monotonic() - self._made > SILENT_S

    def on_lost(self, callback: Callable[[Presence], None]) -> None:
        """Be called with the last beat of an incarnation that went, fell silent or was replaced."""
        self._lost.append(callback)

    def alive(self) -> dict[str, Presence]:
        return {process: beat for process, (beat, _) in self._beats.items()}

    def processes(self, role: str) -> int:
        """Count the live processes of a role."""
        return sum(beat.role == role for beat, _ in self._beats.values())

    def workers(self, pool: str) -> list[Presence]:
        """Give the workers of a pool that are ready."""
        return [beat for beat, _ in self._beats.values() if pool in beat.pools and beat.state == READY]

    def least_slots(self, pool: str) -> int:
        """Give the slots of the smallest worker of a pool; 0 where none has said."""
        return min((beat.slots for beat in self.workers(pool) if beat.slots), default=0)

    def backlog(self, pool: str) -> int:
        """Give the pool's open requests as its workers last reported them (at most 0.5 s old; O(1))."""
        return self._backlog.get(pool, 0)

    def queued(self, pool: str, lane: str) -> int:
        """Give the messages of a lane that wait in the pool's queue, as its workers last saw it; 0 where there is none."""
        batch = lane == routes.BATCH
        return max(
            (beat.pending_batch if batch else beat.pending - beat.pending_batch for beat in self.workers(pool)),
            default=0,
        )

    def has_asker(self, asker: str) -> bool:
        """Whether the process of an asker lives, be its name another's too."""
        return asker in self._askers

    def has_ended(self, asker: str) -> bool:
        """Whether the process of an asker is known to be over: it said so, or another runs under its name."""
        return asker in self._ended_askers and asker not in self._askers  # a twin's is both

    def _on_beat(self, message: Msg) -> None:
        try:
            beat = _decode(message.data)
        except msgspec.DecodeError as exc:
            log.warning("presence_unreadable", subject=message.subject, error=str(exc))
            return
        if beat.state == GONE:
            self._end_asker(beat.asker)
        elif beat.asker:
            self._askers[beat.asker] = time.monotonic()
        known = self._beats.get(beat.process)
        if known is not None and known[0].incarnation != beat.incarnation:
            if beat.incarnation in self._replaced:
                self._on_twin(beat, known[0])
                return
            self._remember_replaced(known[0].incarnation)
            self._end_asker(known[0].asker)
            self._drop(beat.process, "replaced")
        if beat.state == GONE:
            self._drop(beat.process, "gone")
        else:
            now = time.monotonic()
            self._beats[beat.process] = (beat, now)
            if now - self._swept > _SWEEP_S and now - self._checked < 2 * _CHECK_S:
                self._sweep(now)  # we are awake anyway; not right after we were away ourselves

    def _remember_replaced(self, incarnation: str) -> None:
        self._replaced[incarnation] = False
        if len(self._replaced) > _MAX_REPLACED:
            del self._replaced[next(iter(self._replaced))]

    def _end_asker(self, asker: str) -> None:
        self._askers.pop(asker, None)
        if asker:
            self._ended_askers[asker] = None
            if len(self._ended_askers) > _MAX_REPLACED:
                del self._ended_askers[next(iter(self._ended_askers))]

    def _on_twin(self, beat: Presence, known: Presence) -> None:
        """Two processes have one name. The later one has it: were each beat a restart, no work would ever be finished."""
        if not self._replaced[beat.incarnation]:
            self._replaced[beat.incarnation] = True
            log.error("process_name_twice", process=beat.process, pids=[known.pid, beat.pid])

    async def _forgive(self) -> None:
        """After our own disconnection nobody could be heard: start counting anew."""
        now = time.monotonic()
        self._beats = {process: (beat, now) for process, (beat, _) in self._beats.items()}
        self._askers = dict.fromkeys(self._askers, now)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(until_tick(_CHECK_S, past_s=_HEARD_S))
            now = time.monotonic()
            late, self._checked = now - self._checked > 2 * _CHECK_S, now
            if late or not self._bus.connected:  # it is we who were away
                await self._forgive()
                continue
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        self._swept = now
        for process, (beat, seen) in list(self._beats.items()):
            if now - seen > SILENT_S * beat.every:
                self._drop(process, "silent")
        self._askers = {asker: seen for asker, seen in self._askers.items() if now - seen <= SILENT_S}
        self._backlog = self._count_backlog()

    def _count_backlog(self) -> dict[str, int]:
        backlog: dict[str, int] = {}
        running: dict[str, int] = {}
        for beat, _ in self._beats.values():
            for pool in beat.pools:
                backlog[pool] = max(backlog.get(pool, 0), beat.pending)
                running[pool] = running.get(pool, 0) + beat.in_flight
        return {pool: pending + running[pool] for pool, pending in backlog.items()}

    def _drop(self, process: str, why: str) -> None:
        known = self._beats.pop(process, None)
        if known is None:
            return
        log.info("process_lost", process=process, why=why, role=known[0].role)
        for callback in self._lost:
            try:
                callback(known[0])
            except Exception:  # the table must go on noticing the others
                log.exception("process_lost_callback_failed", process=process)
