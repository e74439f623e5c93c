"""Delivery: one message as JetStream handed it to us, and everything that may be done with it.

Any attempt's ack subject acts on the message, not on the attempt (recipes/nats.md section 4): a delivery that was told
it is stale therefore sends nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts import dead_letter
from inferbus.errors import DependencyDown

_STRIPPED = frozenset({"Nats-TTL", "Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence"})
log = structlog.get_logger()


class Delivery:
    """One delivery of one message. `attempt` starts at 1; `stored_s` is the server's time of storage (Unix seconds)."""

    __slots__ = (
        "_bus",
        "abandoned",
        "age_s",
        "attempt",
        "data",
        "headers",
        "pending",
        "reply",
        "seq",
        "stored_s",
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
        self.attempt = int(tokens[4 + offset])
        self.seq = int(tokens[5 + offset])
        self.stored_s = int(tokens[7 + offset]) / 1e9
        self.pending = int(tokens[8 + offset])
        self.age_s = 0.0
        self.abandoned = False

    async def ack(self) -> None:
        await self._send(b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        await self._send(b'-NAK {"delay": %d}' % int(delay_s * 1e9) if delay_s > 0 else b"-NAK")

    async def terminate(self) -> None:
        await self._send(b"+TERM")

    async def progress(self) -> None:
        """Renew the lease."""
        await self._send(b"+WPI")

    def abandon(self) -> None:
        """Another attempt owns the message now: send nothing about it any more."""
        self.abandoned = True

    async def bury(self, code: str, reason: str) -> None:
        """Copy the message to its dead letters, then end it. Not ended if the copy could not be stored."""
        headers = {name: value for name, value in self.headers.items() if name not in _STRIPPED}
        headers |= {
            dead_letter.REASON: " ".join(reason.split())[:1000],
            dead_letter.CODE: code,
            dead_letter.DELIVERIES: str(self.attempt),
            dead_letter.SOURCE_SUBJECT: self.subject,
            dead_letter.SOURCE_SEQUENCE: str(self.seq),
        }
        try:
            await self._bus.accept(
                routes.dlq(self.subject), self.data, headers, msg_id=f"dlq:{self.subject}:{self.seq}"
            )
        except DependencyDown as exc:
            log.error("dead_letter_not_stored", subject=self.subject, seq=self.seq, error=exc.message)
            await self.nak(2.0)
            return
        log.warning("dead_letter", subject=self.subject, seq=self.seq, code=code, reason=reason, attempt=self.attempt)
        await self.terminate()

    async def _send(self, verb: bytes) -> None:
        if not self.abandoned:
            await self._bus.publish(self.reply, verb)
