"""Asker: the side that waits for answers. One per gateway or batch process, one subscription for all its requests.

It fences attempts, asks again for missing frames, confirms ends, answers `ask`, and takes work back from dead workers
(DESIGN.md 2b). What happens to the bytes is the Exchange's reader's business.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import pack, unpacker
from inferbus.contracts.control import CANCEL, CONFIRM, RESEND, STALE, Control, ControlItem
from inferbus.contracts.presence import Presence
from inferbus.contracts.step import FRESH, GONE, Answer, Ask, Delta, Failed, Finished, Frame, Started
from inferbus.errors import EngineDead
from inferbus.exchange import Exchange
from inferbus.presence import PresenceTable

_SOLO_AFTER_DEATHS = 2
log = structlog.get_logger()


class Asker:
    """Owns the open exchanges of this process, by tag and by (tenant, request id)."""

    def __init__(self, bus: Bus, presence: PresenceTable) -> None:
        self.id = secrets.token_hex(8)
        self._bus = bus
        self._presence = presence
        self._tags = itertools.count(1)
        self._open: dict[int, Exchange] = {}
        self._by_id: dict[tuple[str, str], Exchange] = {}
        self._decode = unpacker(list[Frame]).decode
        self._control: dict[tuple[str, str], list[ControlItem]] = {}
        self._kick = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._bus.subscribe(routes.step_of(self.id), self._on_step)
        self._bus.on_reconnect(self._ask_for_all)
        self._presence.on_lost(self._on_worker_lost)
        self._task = asyncio.create_task(self._send_control(), name="asker-control")

    async def stop(self) -> None:
        for exchange in list(self._open.values()):
            exchange.cancel()
        await asyncio.sleep(0)  # lets the control task send the cancels
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def open(self, *, request_id: str, tenant: str, pool: str, deadline_s: float) -> Exchange:
        """Begin to wait for a request that is about to be published."""
        exchange = Exchange(
            request_id=request_id,
            tag=next(self._tags),
            tenant=tenant,
            pool=pool,
            deadline_s=deadline_s,
            on_close=self._on_close,
        )
        self._open[exchange.tag] = exchange
        self._by_id[tenant, request_id] = exchange
        return exchange

    def find(self, tenant: str, request_id: str) -> Exchange | None:
        return self._by_id.get((tenant, request_id))

    @property
    def exchanges(self) -> list[Exchange]:
        return list(self._open.values())

    # --- frames ---------------------------------------------------------------------------------------------------

    async def _on_step(self, message: Msg) -> None:
        try:
            frames: list[Frame] = self._decode(message.data)
        except msgspec.DecodeError as exc:
            log.warning("step_unreadable", error=str(exc), size=len(message.data))
            return
        for frame in frames:
            if type(frame) is Ask:
                await self._answer(frame, message.reply)
            else:
                self._on_frame(frame)  # type: ignore[arg-type]  # Ask is excluded above

    def _on_frame(self, frame: Started | Delta | Finished | Failed) -> None:
        exchange = self._open.get(frame.tag)
        if exchange is None:
            self._on_unknown(frame)
            return
        fence = exchange.fence
        if type(frame) is Started:
            if fence is None:
                exchange.begin(frame)
            elif (fence.attempt, fence.incarnation) != (frame.attempt, frame.incarnation):
                self._tell(frame.worker, STALE, frame.tag, frame.attempt)
            return
        if fence is None or fence.attempt != frame.attempt:
            return  # an attempt that was given up, or whose `started` was lost: it is sent again after a reconnect
        if frame.seq == exchange.next_seq:
            self._accept(exchange, frame)  # type: ignore[arg-type]  # Started returned above
        elif frame.seq > exchange.next_seq:
            self._tell(fence.worker, RESEND, frame.tag, frame.attempt, exchange.next_seq)
        elif type(frame) is Finished or type(frame) is Failed:
            self._tell(fence.worker, CONFIRM, frame.tag, frame.attempt)  # the confirm was lost

    def _accept(self, exchange: Exchange, frame: Delta | Finished | Failed) -> None:
        fence = exchange.fence
        assert fence is not None
        if type(frame) is Delta:
            exchange.feed(frame)
            if exchange.ended:  # slow client
                self._tell(fence.worker, CANCEL, frame.tag, frame.attempt)
            return
        if type(frame) is Failed and not frame.final:
            self._take_back(exchange, frame.code == "engine_dead", frame.message)
            return
        exchange.feed(frame)
        self._tell(fence.worker, CONFIRM, frame.tag, frame.attempt)

    def _on_unknown(self, frame: Started | Delta | Finished | Failed) -> None:
        """A frame for a request that is over here: cancelled, expired, or confirmed and the confirm was lost."""
        if type(frame) is Started:
            self._tell(frame.worker, CANCEL, frame.tag, frame.attempt)
        elif type(frame) is Finished or type(frame) is Failed:
            for worker in self._presence.alive().values():
                if worker.role == "worker":
                    self._tell(worker.process, CONFIRM, frame.tag, frame.attempt)

    def _take_back(self, exchange: Exchange, engine_died: bool, why: str) -> None:
        """The attempt ended without an end. Nothing delivered: wait for the next. Else the stream cannot go on."""
        if engine_died:
            exchange.engine_deaths += 1
        if exchange.fence is not None:  # should it only have been slow: it must send nothing more
            self._tell(exchange.fence.worker, STALE, exchange.tag, exchange.fence.attempt)
        if exchange.delivered:
            exchange.fail(EngineDead(f"the worker was lost in mid-stream: {why}"))
        else:
            exchange.requeue()

    async def _answer(self, ask: Ask, reply: str) -> None:
        exchange = self._open.get(ask.tag)
        if exchange is None or exchange.ended or exchange.request_id != ask.request_id:
            answer = Answer(GONE)
        else:
            if exchange.fence is not None and exchange.fence.attempt != ask.attempt:
                self._take_back(exchange, False, "its lease ran out")
            deaths = exchange.engine_deaths
            answer = Answer(GONE) if exchange.ended else Answer(FRESH, deaths, deaths >= _SOLO_AFTER_DEATHS)
        await self._bus.publish(reply, pack(answer))

    # --- workers --------------------------------------------------------------------------------------------------

    def _on_worker_lost(self, worker: Presence) -> None:
        for exchange in list(self._open.values()):
            fence = exchange.fence
            if fence is None or exchange.ended or fence.incarnation != worker.incarnation:
                continue
            self._take_back(exchange, False, f"{worker.process} is gone")
            # Nobody else may act for the dead worker: ack what cannot go on, hand back what can (0.2 ms, no ack_wait).
            self._send_later(fence.ack_subject, b"+ACK" if exchange.ended else b"-NAK")

    async def _ask_for_all(self) -> None:
        """After a reconnect assume a gap everywhere: core messages were lost without a trace."""
        workers = [beat.process for beat in self._presence.alive().values() if beat.role == "worker"]
        for exchange in self._open.values():
            if exchange.fence is not None:
                self._tell(exchange.fence.worker, RESEND, exchange.tag, exchange.fence.attempt, exchange.next_seq)
            else:
                for worker in workers:
                    self._tell(worker, RESEND, exchange.tag, 0, 0)

    def _on_close(self, exchange: Exchange) -> None:
        self._open.pop(exchange.tag, None)
        if self._by_id.get((exchange.tenant, exchange.request_id)) is exchange:
            del self._by_id[exchange.tenant, exchange.request_id]
        fence = exchange.fence
        if fence is not None and not exchange.finished:
            self._tell(fence.worker, CANCEL, exchange.tag, fence.attempt)

    def _tell(self, worker: str, verb: str, tag: int, attempt: int, from_seq: int = 0) -> None:
        self._control.setdefault((worker, verb), []).append(ControlItem(tag, attempt, from_seq))
        self._kick.set()

    async def _send_control(self) -> None:
        """One message per tick, worker and verb."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            control, self._control = self._control, {}
            for (worker, verb), items in control.items():
                try:
                    await self._bus.publish(routes.control_of(worker, verb), pack(Control(self.id, items)))
                except Exception as exc:  # the buffer is full or the connection closes: workers repeat what matters
                    log.warning("control_not_sent", worker=worker, verb=verb, error=repr(exc))

    def _send_later(self, subject: str, data: bytes) -> None:
        task = asyncio.ensure_future(self._bus.publish(subject, data))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
