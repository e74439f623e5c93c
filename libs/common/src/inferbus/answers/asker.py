"""Asker: the side that waits for answers. One per gateway or batch process, one subscription for all its requests.

It fences attempts, asks again for missing frames, confirms ends, answers `ask`, and takes work back from dead workers
(DESIGN.md 2b). What happens to the bytes is the Exchange's reader's business.
"""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.answers.endings import Endings, state_of
from inferbus.answers.exchange import Exchange, Fence
from inferbus.bus import Bus
from inferbus.codec import pack, unpacker
from inferbus.contracts.control import CANCEL, CONFIRM, DROP, EXPIRE, RESEND, STALE, Control, ControlItem
from inferbus.contracts.presence import Presence
from inferbus.contracts.step import GONE, Answer, Ask, Delta, Failed, Finished, Frame, Started
from inferbus.errors import DeadlineWhileQueued, DeadlineWhileRunning, ResumeImpossible
from inferbus.process.presence import PresenceTable
from inferbus.queue.hand_back import HandBack

_SOLO_AFTER_DEATHS = 2
_ASK_AGAIN_S = 0.5
_STRAY_S = 1.0
_STALE_AGAIN_S = 0.5
_MAX_STRAYS = 4096
_CONFIRM_SOON_S = 0.001
log = structlog.get_logger()

WorkFrame = Started | Delta | Finished | Failed


class Asker:
    """Owns the open exchanges of this process, by tag and by (tenant, request id)."""

    def __init__(self, bus: Bus, presence: PresenceTable) -> None:
        self.id = secrets.token_hex(8)
        self._bus = bus
        self._presence = presence
        self._next_tag = 1
        self._open: dict[int, Exchange] = {}
        self._by_id: dict[tuple[str, str], Exchange] = {}
        self._endings = Endings()
        self._strays: dict[tuple[int, int], float] = {}
        self._decode = unpacker(list[Frame]).decode
        self._control: dict[tuple[str, str], list[ControlItem]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._is_late = False
        self._hand_back = HandBack(self._send)

    async def start(self) -> None:
        await self._bus.listen(routes.step_of(self.id), self._on_step)
        self._bus.on_reconnect(self._ask_for_all)
        self._presence.on_lost(self._on_worker_lost)

    async def stop(self) -> None:
        """Cancel what is open, wherever it is, and end. What is durable goes on."""
        for exchange in list(self._open.values()):
            if not exchange.durable:
                exchange.cancel()
        self._hand_back.stop()
        self.flush_control()

    def open(
        self,
        *,
        request_id: str,
        tenant: str,
        pool: str,
        deadline_s: float,
        lane: str = routes.INTERACTIVE,
        streamed: bool = False,
    ) -> Exchange:
        """Begin to wait for a request that is about to be published."""
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        exchange = Exchange(
            request_id=request_id,
            tag=tag,
            tenant=tenant,
            pool=pool,
            deadline_s=deadline_s,
            on_close=self._on_close,
            lane=lane,
            streamed=streamed,
        )
        self._open[exchange.tag] = exchange
        self._by_id[tenant, request_id] = exchange
        if self._control:  # confirms that wait: they share the write of the publish that follows
            self._flush_soon()
        return exchange

    def find(self, tenant: str, request_id: str) -> Exchange | None:
        return self._by_id.get((tenant, request_id))

    def state_of(self, tenant: str, request_id: str) -> str | None:
        """Say how a request of this process is doing, or how it ended; None where it is not known here."""
        exchange = self.find(tenant, request_id)
        return self._endings.find(tenant, request_id) if exchange is None else state_of(exchange)

    @property
    def exchanges(self) -> list[Exchange]:
        return list(self._open.values())

    def tags(self) -> tuple[list[int], int]:
        """Give the tags of what is open, and the tag the next request will have."""
        return list(self._open), self._next_tag

    # --- frames ---------------------------------------------------------------------------------------------------

    def _on_step(self, message: Msg) -> None:
        try:
            frames: list[Frame] = self._decode(message.data)
        except msgspec.DecodeError as exc:
            log.warning("step_unreadable", error=str(exc), size=len(message.data))
            return
        for frame in frames:
            if type(frame) is Ask:
                self._answer(frame, message.reply)
            else:
                self._on_frame(frame)  # type: ignore[arg-type]  # Ask is excluded above

    def _on_frame(self, frame: WorkFrame) -> None:
        exchange = self._open.get(frame.tag)
        if exchange is None:
            self._on_unknown(frame)
            return
        if type(frame) is Started:
            self._on_started(exchange, frame)
            return
        fence = exchange.fence
        if fence is None or fence.attempt != frame.attempt or fence.run != frame.run:
            self._on_unfenced(exchange, frame)
        elif frame.seq == exchange.next_seq:
            self._accept(exchange, fence, frame)  # type: ignore[arg-type]  # Started returned above
        elif frame.seq > exchange.next_seq:
            self._ask_again(exchange, frame.attempt, [fence.worker], exchange.next_seq)
        elif type(frame) is Finished or type(frame) is Failed:
            self._tell(fence.worker, CONFIRM, frame.tag, frame.attempt, run=frame.run)  # the confirm was lost

    def _on_started(self, exchange: Exchange, frame: Started) -> None:
        fence = exchange.fence
        if fence is not None and (fence.attempt, fence.run) == (frame.attempt, frame.run):
            return  # said again, whether it has ended since or not
        if exchange.ended:  # delivered again after its end, by a server that forgot: nobody wants it any more
            self._tell(frame.worker, DROP, frame.tag, frame.attempt, run=frame.run)
        elif fence is None and not exchange.is_given_up(frame):
            if exchange.fits(frame):
                exchange.begin(frame)
            else:  # the server forgot a delivery and counts anew: this attempt did not ask where to go on
                self._tell(frame.worker, STALE, frame.tag, frame.attempt, run=frame.run)
                self._send(frame.ack_subject, b"-NAK")
        else:
            self._tell(frame.worker, STALE, frame.tag, frame.attempt, run=frame.run)

    def _accept(self, exchange: Exchange, fence: Fence, frame: Delta | Finished | Failed) -> None:
        if type(frame) is Delta:
            exchange.feed(frame)  # a client too slow for it closes the exchange
            return
        if type(frame) is Failed and not frame.final:
            self._take_back(exchange, frame.code == "engine_dead", frame.message)
            return
        exchange.feed(frame)
        self._tell(fence.worker, CONFIRM, frame.tag, frame.attempt, run=frame.run)

    def _on_unfenced(self, exchange: Exchange, frame: WorkFrame) -> None:
        """A frame of an attempt that was given up, or whose `started` was lost: without it nothing of it counts."""
        fence, old = exchange.fence, exchange.given_up
        if fence is None and (old is None or frame.attempt > old.attempt):
            self._ask_again(exchange, frame.attempt, self._workers(), 0)
            return
        if type(frame) is Failed and not frame.final:
            return  # it hands the message back itself; told stale it would not
        now = time.monotonic()
        if now - exchange.told_stale > _STALE_AGAIN_S:  # it was frozen or cut off when it was told, and goes on
            exchange.told_stale = now
            named = old is not None and frame.run == old.run and frame.run
            for worker in [old.worker] if named and old is not None else self._workers():
                self._tell(worker, STALE, exchange.tag, frame.attempt, run=frame.run)

    def _ask_again(self, exchange: Exchange, attempt: int, workers: list[str], from_seq: int) -> None:
        """Ask for missing frames once per gap, and again where that was lost: every frame after the gap shows it."""
        now = time.monotonic()
        seq, asked = exchange.asked_again
        if seq == from_seq and now - asked < _ASK_AGAIN_S:
            return
        exchange.asked_again = (from_seq, now)
        for worker in workers:
            self._tell(worker, RESEND, exchange.tag, attempt, from_seq)

    def _on_unknown(self, frame: WorkFrame) -> None:
        """A frame for a request that is over here: cancelled, expired, or confirmed and the confirm was lost."""
        if type(frame) is Started:
            self._tell(frame.worker, DROP, frame.tag, frame.attempt)
            return
        if type(frame) is Delta:
            if not self._is_stray(frame):
                return
            verb = CANCEL
        else:
            verb = CONFIRM
        if self._endings.was_by_another(frame.tag, frame.attempt, frame.run):
            verb = DROP  # delivered again by a server that forgot: what the client read is the other's
        for worker in self._workers():
            self._tell(worker, verb, frame.tag, frame.attempt, run=frame.run)

    def _is_stray(self, frame: Delta) -> bool:
        """Somebody still generates for nobody: whether that goes on for a second, and the cancel must have been lost."""
        now = time.monotonic()
        key = (frame.tag, frame.attempt)
        if len(self._strays) >= _MAX_STRAYS:
            self._strays.clear()
        is_stray = now - self._strays.setdefault(key, now) > _STRAY_S
        if is_stray:
            self._strays[key] = now
        return is_stray

    def _take_back(self, exchange: Exchange, engine_died: bool, why: str) -> None:
        """The attempt ended without an end: the next one goes on where it was."""
        if engine_died:
            exchange.engine_deaths += 1
        if exchange.delivered is None or exchange.delivered.can_continue:
            exchange.requeue()
            log.info("work_taken_back", request_id=exchange.request_id, why=why, delivered=exchange.delivered_tokens)
        else:
            exchange.fail(ResumeImpossible(f"the worker was lost before the first token was complete: {why}"))

    def _take_away(self, exchange: Exchange, fence: Fence, why: str) -> None:
        """Take back from a worker that did not say so itself: should it only have been slow, it must send no more."""
        self._tell(fence.worker, STALE, exchange.tag, fence.attempt, run=fence.run)
        self._take_back(exchange, False, why)

    def _answer(self, ask: Ask, reply: str) -> None:
        exchange = self._open.get(ask.tag)
        self._hand_back.heard(ask.tag)
        if exchange is None or exchange.ended or exchange.request_id != ask.request_id:
            answer = Answer(GONE)
        else:
            fence = exchange.fence
            if fence is not None and fence.attempt < ask.attempt:
                self._take_away(exchange, fence, "its lease ran out")
            # An attempt older than the accepted one also hears `fresh`: `gone` would have it acknowledge the message
            # under the newer one, and its `started` is answered `stale`.
            solo = exchange.engine_deaths >= _SOLO_AFTER_DEATHS
            answer = Answer(GONE) if exchange.ended else exchange.resume_answer(solo=solo)
        self._send(reply, pack(answer))

    # --- workers --------------------------------------------------------------------------------------------------

    def _workers(self) -> list[str]:
        return [beat.process for beat in self._presence.alive().values() if beat.role == "worker"]

    def _on_worker_lost(self, worker: Presence) -> None:
        for exchange in list(self._open.values()):
            fence = exchange.fence
            if fence is None or exchange.ended or fence.incarnation != worker.incarnation:
                continue
            self._take_away(exchange, fence, f"{worker.process} is gone")
            # Nobody else may act for the dead worker: ack what cannot go on, hand back what can (0.2 ms, no ack_wait).
            if exchange.error is not None:
                self._send(fence.ack_subject, b"+ACK")
            else:
                self._hand_back.begin(exchange.tag, fence.ack_subject)

    async def _ask_for_all(self) -> None:
        """After a reconnect assume a gap everywhere: core messages were lost without a trace."""
        workers = self._workers()
        for exchange in self._open.values():
            if exchange.fence is not None:
                self._tell(exchange.fence.worker, RESEND, exchange.tag, exchange.fence.attempt, exchange.next_seq)
            else:
                for worker in workers:
                    self._tell(worker, RESEND, exchange.tag, 0, 0)

    def _on_close(self, exchange: Exchange) -> None:
        self._open.pop(exchange.tag, None)
        self._hand_back.heard(exchange.tag)
        if self._by_id.get((exchange.tenant, exchange.request_id)) is exchange:
            del self._by_id[exchange.tenant, exchange.request_id]
        fence = exchange.fence
        self._endings.note(exchange)
        if fence is not None and not exchange.finished:
            self._tell(fence.worker, _stopped_by(exchange), exchange.tag, fence.attempt)

    def stop_direct(self, exchange: Exchange) -> None:
        """Have a request that was delivered directly stopped. Who has it nobody has said; to the others it is nothing."""
        for beat in self._presence.alive().values():
            if exchange.pool in beat.pools:
                self._tell(beat.process, _stopped_by(exchange), exchange.tag, 0)

    def _tell(self, worker: str, verb: str, tag: int, attempt: int, from_seq: int = 0, *, run: int = 0) -> None:
        self._control.setdefault((worker, verb), []).append(ControlItem(tag, attempt, from_seq, run))
        if verb != CONFIRM:
            self._flush_soon()
        elif self._timer is None:
            self._timer, self._is_late = self._loop.call_later(_CONFIRM_SOON_S, self.flush_control), True

    def _flush_soon(self) -> None:
        if self._timer is None or self._is_late:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._is_late = self._loop.call_soon(self.flush_control), False

    def flush_control(self) -> None:
        """Send what waits: one message per worker and verb. Confirms wait a millisecond for others, or for the next publish."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        control, self._control = self._control, {}
        for (worker, verb), items in control.items():
            self._send(routes.control_of(worker, verb), pack(Control(self.id, items)))

    def _send(self, subject: str, data: bytes) -> None:
        try:
            self._bus.send(subject, data)
        except Exception as exc:  # the buffer is full or the connection closes: workers repeat what matters
            log.warning("control_not_sent", subject=subject, error=repr(exc))


def _stopped_by(exchange: Exchange) -> str:
    return EXPIRE if isinstance(exchange.error, DeadlineWhileQueued | DeadlineWhileRunning) else CANCEL
