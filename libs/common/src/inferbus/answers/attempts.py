"""Attempts: the side that answers. One `Attempt` per delivery being worked on, all of a worker's in one `Attempts`.

Frames are numbered and kept until the asker confirmed the end; the end is repeated every second until then; asker silent
for 3 s: dropped (DESIGN.md 2b). What the frames contain is the engine's business, when the delivery is acknowledged the
worker's.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.answers.by_ticket import MAX_ANSWER_BYTES, store_answer
from inferbus.answers.frames import FrameSender
from inferbus.bus import Bus
from inferbus.bus.sizes import MAX_PAYLOAD_BYTES
from inferbus.codec import unpacker
from inferbus.contracts.control import CANCEL, CONFIRM, DROP, EXPIRE, RESEND, STALE, VERBS, Control, ControlItem
from inferbus.contracts.envelope import Envelope
from inferbus.contracts.step import Cached, Delta, Done, Failed, Finished, Frame, Ids, Started, Usage
from inferbus.errors import InferbusError
from inferbus.process.presence import PresenceTable
from inferbus.queue.delivery import Delivery

REPEAT_S = 1.0
ASKER_SILENT_S = 3.0
MAX_KEPT_BYTES = 32 * 1024 * 1024
MAX_BODY_BYTES = MAX_PAYLOAD_BYTES - 256 * 1024
"""The largest answer that is a frame; one that is not streamed goes by ticket above it."""

ASKER_GONE = "asker_gone"
log = structlog.get_logger()


T = TypeVar("T", bound="Attempt")


class Attempt:
    """One attempt at one request. `over` completes with how it ended: confirm, cancel, expire, drop, stale or asker_gone."""

    is_row = False
    """A row of a batch: nobody waits for its milliseconds."""

    def __init__(self, owner: Attempts, envelope: Envelope, delivery: Delivery) -> None:
        self._owner = owner
        self.envelope = envelope
        self.delivery = delivery
        self.run = owner.next_run()
        self._sent: list[Frame] = []
        self._kept_bytes = 0
        self.deltas = 0
        self._storing: asyncio.Task[None] | None = None
        self.end: Finished | Failed | None = None
        self.failure = ""
        """The code of a final failure, as soon as there is one."""
        self.when_stored: Callable[[], None] | None = None
        """Called once a large answer is stored, or could not be: only then its end is known."""
        self.over: asyncio.Future[str] = owner.loop.create_future()
        self.on_stop: Callable[[], None] | None = None
        """Called once when the asker wants no more (cancel or stale): abort the engine."""

    @property
    def name(self) -> str:
        """Unique among all attempts of all askers; a request id is the client's and may come twice."""
        return f"{self.envelope.asker}.{self.envelope.tag_no}.{self.delivery.attempt}"

    @property
    def durable_name(self) -> tuple[str, str] | None:
        """Tenant and request id of an answer that is kept whether or not somebody waits for it."""
        return None

    @property
    def has_outcome(self) -> bool:
        """Whether its end is stored, so that it does not matter who has heard of it."""
        return False

    def started(self, created: int, fingerprint: str, resumed: int = 0) -> None:
        """Say that an attempt began; it may travel with the first output, nobody is shown it.

        `created` is the Unix time the answer carries, `fingerprint` the engine's, `resumed` the tokens that the client has.
        """
        owner, delivery = self._owner, self.delivery
        if self.over.done():
            return
        frame = Started(
            self.envelope.tag_no, delivery.attempt, 0, delivery.reply, owner.process, owner.incarnation,
            self.run, created, fingerprint, resumed,
        )  # fmt: skip
        self._sent.append(frame)
        owner.sender.send_soon(self.envelope.asker, frame)

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        if self.end is not None:
            return
        self.deltas += 1
        self._kept_bytes += len(data)
        if self._kept_bytes > MAX_KEPT_BYTES or len(data) > MAX_BODY_BYTES:
            limits = f"{MAX_KEPT_BYTES} bytes, or a part of it over {MAX_BODY_BYTES}"
            self.failed("too_large", f"the answer grew over {limits}", final=True)
            self._stop_engine()
            return
        seq = len(self._sent)
        self._send(Delta(self.envelope.tag_no, self.delivery.attempt, seq, ids, data, self.run, list(done), cached))

    def finished(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        if len(data) > MAX_ANSWER_BYTES:
            self.failed("too_large", f"the answer has {len(data)} bytes, the limit is {MAX_ANSWER_BYTES}", final=True)
            return
        tag, attempt = self.envelope.tag_no, self.delivery.attempt
        end = Finished(tag, attempt, len(self._sent), status, usage, data, content_type, self.run)
        if len(data) > MAX_BODY_BYTES:
            self._storing = asyncio.create_task(self._finish_by_ticket(end), name="large-answer")
        else:
            self._end(end)

    def failed(self, code: str, message: str, *, final: bool) -> None:
        """End in an error of the platform. Not `final`: the work goes back to the queue and no confirm is awaited."""
        if final:
            self.failure = self.failure or code
        tag, attempt = self.envelope.tag_no, self.delivery.attempt
        self._end(Failed(tag, attempt, len(self._sent), code, message, final, self.run))

    @property
    def is_storing(self) -> bool:
        """Whether its answer is too large for a frame, and on its way to where it can be had."""
        return self._storing is not None

    def resend(self, from_seq: int) -> None:
        for frame in self._sent[max(0, from_seq) :]:
            self._owner.sender.send(self.envelope.asker, frame)

    def stop(self, how: str) -> None:
        """The asker wants no more of this attempt."""
        if how == STALE:
            self.delivery.abandon()
        if not self.over.done():
            self.over.set_result(how)
        self._stop_engine()

    def asker_gone(self) -> None:
        """Nobody waits for this any more, or can say so."""
        self.stop(ASKER_GONE)

    async def expire(self) -> None:
        """End the message after its deadline: the asker's own timer has told the client."""
        self.delivery.ack()

    async def let_go(self, again_s: float) -> None:
        """End the message of an attempt whose outcome the asker has, or wants no more, once that is so."""
        if await self.over == ASKER_GONE:
            # Not the end of it: an asker that was only cut off still waits. The next attempt asks before it starts.
            self.delivery.nak(again_s)
        else:
            self.delivery.ack()  # says nothing where the attempt is stale

    async def closed(self) -> None:
        """Be told that it was closed."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)

    async def _finish_by_ticket(self, end: Finished) -> None:
        """Say the end once its body can be had."""
        try:
            ticket = await store_answer(self._owner.bus, self.delivery.subject, end.data)
        except InferbusError as exc:
            self.failed(exc.code, f"an answer of {len(end.data)} bytes could not be stored: {exc.message}", final=True)
        else:
            self._end(msgspec.structs.replace(end, data=b"", ticket=ticket))
        if self.when_stored is not None:
            self.when_stored()

    def _stop_engine(self) -> None:
        if self.on_stop is not None:
            stop, self.on_stop = self.on_stop, None
            try:
                stop()
            except Exception:  # must not keep the other attempts of the same message from hearing theirs
                log.exception("stop_failed", request_id=self.envelope.request_id)

    def _end(self, frame: Finished | Failed) -> None:
        if self.end is None and not self.over.done():
            self.end = frame
            self._send(frame)

    def _send(self, frame: Frame) -> None:
        if self.over.done():
            return
        self._sent.append(frame)
        sender = self._owner.sender
        (sender.send_soon if self.is_row else sender.send)(self.envelope.asker, frame)


class Attempts:
    """All attempts of one worker, and the control messages about them."""

    def __init__(self, bus: Bus, presence: PresenceTable, *, process: str, incarnation: str) -> None:
        self.bus = self._bus = bus
        self._presence = presence
        self.process = process
        self.incarnation = incarnation
        self.loop = asyncio.get_running_loop()
        self.sender = FrameSender(bus)
        self._open: dict[tuple[str, int], list[Attempt]] = {}
        self._decode = unpacker(Control).decode
        self._task: asyncio.Task[None] | None = None
        self._asker_seen: dict[str, float] = {}
        self._runs = itertools.count(secrets.randbits(32))
        self._others: dict[str, Callable[[Msg], None]] = {}

    async def start(self) -> None:
        await self._bus.listen(routes.control_all(self.process), self._on_control)
        await self._bus.subscribe(routes.CANCEL_ALL, self._on_cancel)
        self._bus.on_reconnect(self._send_again)
        self._task = asyncio.create_task(self._repeat(), name="attempts-repeat")

    def on_control(self, verb: str, handler: Callable[[Msg], None]) -> None:
        """Have another verb's messages handled. Not by a subscription of its own: the server would deliver a request to both,
        and the second delivery takes away the right to answer the first."""
        self._others[verb] = handler

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.sender.flush()

    def open(self, envelope: Envelope, delivery: Delivery) -> Attempt:
        return self.register(Attempt(self, envelope, delivery))

    def register(self, attempt: T) -> T:
        """Have an attempt hear what askers say about it."""
        envelope = attempt.envelope
        self._open.setdefault((envelope.asker, envelope.tag_no), []).append(attempt)
        self._asker_seen.setdefault(envelope.asker, time.monotonic())
        return attempt

    def next_run(self) -> int:
        """Give a number that no other run of any attempt has: they count from a random beginning in every process."""
        return next(self._runs) & 0xFFFFFFFF

    def is_running(self, envelope: Envelope, number: int) -> bool:
        """Say whether this very attempt is open already."""
        found = self._open.get((envelope.asker, envelope.tag_no), ())
        return any(attempt.delivery.attempt == number and not attempt.over.done() for attempt in found)

    def has_ended(self, asker: str) -> bool:
        """Whether an asker's process is known to be over."""
        return self._presence.has_ended(asker)

    def close(self, attempt: Attempt) -> None:
        """Forget an attempt: nothing is sent for it any more. Idempotent."""
        key = (attempt.envelope.asker, attempt.envelope.tag_no)
        left = [other for other in self._open.get(key, ()) if other is not attempt]
        if left:
            self._open[key] = left
        else:
            self._open.pop(key, None)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def __iter__(self) -> Iterator[Attempt]:
        return itertools.chain.from_iterable(list(self._open.values()))

    def _on_control(self, message: Msg) -> None:
        if (verb := routes.verb_of(message.subject)) not in VERBS:
            if (handler := self._others.get(verb)) is not None:
                handler(message)
            return
        try:
            control: Control = self._decode(message.data)
        except msgspec.DecodeError as exc:
            log.warning("control_unreadable", subject=message.subject, error=str(exc))
            return
        for item in control.items:
            for attempt in self._matching(control.asker, item):
                self._obey(attempt, verb, item)

    async def _on_cancel(self, message: Msg) -> None:
        """A client cancels by id. Its gateway says so too, but an answer that is kept may have none any more."""
        name = routes.parse_cancel(message.subject)
        for attempt in self:
            if attempt.durable_name == name:
                attempt.stop(CANCEL)

    def _matching(self, asker: str, item: ControlItem) -> list[Attempt]:
        """Attempt 0 means whichever attempt of the tag is here (its `started` was lost), run 0 whichever run of it."""
        found = self._open.get((asker, item.tag), ())
        return [
            attempt
            for attempt in found
            if item.attempt in (0, attempt.delivery.attempt) and item.run in (0, attempt.run)
        ]

    def _obey(self, attempt: Attempt, verb: str, item: ControlItem) -> None:
        if verb == CONFIRM:
            if attempt.end is not None and not attempt.over.done():
                attempt.over.set_result(CONFIRM)
        elif verb == RESEND:
            attempt.resend(item.from_seq)
        elif verb in (CANCEL, EXPIRE, DROP, STALE):
            attempt.stop(verb)

    async def _send_again(self) -> None:
        """After a reconnect `started` may be lost, and without it the asker cannot ask for anything."""
        for attempt in self:
            if attempt.deltas == 0:
                attempt.resend(0)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_S)
            askers = {asker for asker, _ in self._open}
            self._asker_seen = {asker: seen for asker, seen in self._asker_seen.items() if asker in askers}
            if self._open and self._bus.connected:
                self._repeat_ends(askers)

    def _repeat_ends(self, askers: set[str]) -> None:
        now = time.monotonic()
        for asker in askers:
            if self._presence.has_asker(asker):
                self._asker_seen[asker] = now
        for attempt in self:
            asker = attempt.envelope.asker
            if now - self._asker_seen.get(asker, now) > ASKER_SILENT_S:
                attempt.asker_gone()
            elif attempt.end is not None and not attempt.over.done():
                self.sender.send(asker, attempt.end)
