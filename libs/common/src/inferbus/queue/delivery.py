"""Delivery: one message as JetStream handed it to us, and everything that may be done with it.

Any attempt's ack subject acts on the message, not on the attempt (recipes/nats.md section 4): a delivery that was told
it is stale therefore sends nothing any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts import dead_letter
from inferbus.contracts.groups import ROWS_HEADER
from inferbus.errors import DependencyDown, InferbusError, Permanent
from inferbus.queue.slots import Slots

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MAX_DLQ_SUBJECT_BYTES = 900  # below the bus's limit; the whole subject is in a header
_BURY_AGAIN_S = 2.0
log = structlog.get_logger()


class Delivery:
    """One delivery of one message. `attempt` starts at 1; `stored_s` is the server's time of storage (Unix seconds)."""

    __slots__ = (
        "_bus",
        "abandoned",
        "age_s",
        "attempt",
        "data",
        "free_slot",
        "headers",
        "pending",
        "reply",
        "rows",
        "seq",
        "slots",
        "stored_s",
        "stream",
        "subject",
    )

    def __init__(self, bus: Bus, message: Msg) -> None:
        self._bus = bus
        self.subject = message.subject
        self.data = message.data
        self.headers: Mapping[str, str] = message.headers or {}
        self.reply = message.reply
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>, two tokens more in form 2
        tokens = self.reply.split(".")
        offset = 0 if len(tokens) == 9 else 2
        self.stream = tokens[2 + offset]
        self.attempt = int(tokens[4 + offset])
        self.seq = int(tokens[5 + offset])
        self.stored_s = int(tokens[7 + offset]) / 1e9
        self.pending = int(tokens[8 + offset])
        self.age_s = 0.0
        self.abandoned = False
        rows = self.headers.get(ROWS_HEADER)
        self.rows = int(rows) if rows is not None and rows.isdecimal() else 1
        """How many rows it still has to end, each of which takes a slot; 1 where it is a request itself."""
        self.slots: Slots | None = None
        """Where its rows get their slots."""
        self.free_slot: Callable[[], None] = _holds_none
        """Give its slot to another, though this one is not at its end: what is left to do needs no engine. Idempotent."""

    def ack(self) -> None:
        """End it. Nobody waits for an acknowledgement, so it shares its write with what is sent next."""
        self._send(b"+ACK", self._bus.send_soon)

    async def ack_surely(self) -> None:
        """End it, and wait until the server has heard of it."""
        if self.abandoned:
            return
        try:
            await self._bus.request(self.reply, b"+ACK")
        except DependencyDown as exc:  # it comes back, and is found to be over
            log.warning("verdict_not_sent", subject=self.subject, seq=self.seq, verb="+ACK", error=exc.message)

    def nak(self, delay_s: float = 0.0) -> None:
        self._send(b'-NAK {"delay": %d}' % int(delay_s * 1e9) if delay_s > 0 else b"-NAK")

    def terminate(self) -> None:
        self._send(b"+TERM")

    def progress(self) -> None:
        """Renew the lease."""
        self._send(b"+WPI")

    def abandon(self) -> None:
        """Another attempt owns the message now: send nothing about it any more."""
        self.abandoned = True

    async def bury(self, code: str, reason: str) -> None:
        """Copy the message to its dead letters, then end it. Not ended if the copy could not be stored."""
        headers = _copied(self.headers) | {
            dead_letter.REASON: " ".join(reason.split())[:1000],
            dead_letter.CODE: code,
            dead_letter.DELIVERIES: str(self.attempt),
            dead_letter.SOURCE_SUBJECT: self.subject,
            dead_letter.SOURCE_SEQUENCE: str(self.seq),
        }
        try:
            await self._store_dead(self.data, headers)
        except Permanent:  # with our headers it is over the bus's limit, or an old header cannot be sent again
            await self._bury_without_body(headers)
        except InferbusError as exc:
            self._not_buried(exc)
        else:
            self._buried(code, reason)

    async def _bury_without_body(self, headers: dict[str, str]) -> None:
        ours = {name: value for name, value in headers.items() if name.startswith(dead_letter.PREFIX)}
        try:
            await self._store_dead(b"", ours | {dead_letter.TRUNCATED: str(len(self.data))})
        except InferbusError as exc:
            self._not_buried(exc)
        else:
            self._buried(headers[dead_letter.CODE], headers[dead_letter.REASON])

    async def _store_dead(self, data: bytes, headers: dict[str, str]) -> None:
        subject = self.subject.encode()[:_MAX_DLQ_SUBJECT_BYTES].decode(errors="ignore").rstrip(".")
        await self._bus.accept(routes.dlq(subject), data, headers, msg_id=f"dlq:{self.stream}:{self.seq}")

    def _buried(self, code: str, reason: str) -> None:
        log.warning("dead_letter", subject=self.subject, seq=self.seq, code=code, reason=reason, attempt=self.attempt)
        self.terminate()

    def _not_buried(self, error: InferbusError) -> None:
        log.error("dead_letter_not_stored", subject=self.subject, seq=self.seq, error=error.message)
        self.nak(_BURY_AGAIN_S)

    def _send(self, verb: bytes, send: Callable[[str, bytes], None] | None = None) -> None:
        if self.abandoned:
            return
        try:
            (send or self._bus.send)(self.reply, verb)
        except DependencyDown as exc:  # the message comes back after its ack_wait, as after any lost acknowledgement
            log.warning("verdict_not_sent", subject=self.subject, seq=self.seq, verb=verb.decode(), error=exc.message)


def _holds_none() -> None:
    """There is no slot to give."""


def _copied(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the headers that may be published again. The server obeys `Nats-*` ones, whoever wrote them: an expected
    stream or sequence, a TTL or an old message id would have the copy refused or forgotten."""
    return {
        name: value
        for name, value in headers.items()
        if _HEADER_NAME.fullmatch(name) and not name.lower().startswith("nats-")
    }
