"""Reading dead letters as an operator does."""

from __future__ import annotations

import msgspec
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts import dead_letter
from inferbus.testing import eventually


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter: the message as it was, and why it is here."""

    sequence: int
    data: bytes
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return self.headers[dead_letter.CODE]

    @property
    def reason(self) -> str:
        return self.headers[dead_letter.REASON]


async def last_dead_letter(operator: Bus, subject: str) -> DeadLetter | None:
    """Give the newest dead letter of a subject, None if there is none."""
    query = msgspec.json.encode({"last_by_subj": routes.dlq(subject)})
    message: Msg = await operator.request(f"$JS.API.DIRECT.GET.{routes.STREAM_DLQ}", query)
    headers = message.headers or {}
    if "Nats-Sequence" not in headers:
        return None
    return DeadLetter(int(headers["Nats-Sequence"]), message.data, headers)


async def next_dead_letter(operator: Bus, subject: str, *, after: int = 0, within_s: float = 10.0) -> DeadLetter:
    """Wait for a dead letter of a subject that is newer than the sequence `after`."""
    found: list[DeadLetter] = []

    async def came() -> bool:
        letter = await last_dead_letter(operator, subject)
        if letter is not None and letter.sequence > after:
            found.append(letter)
        return bool(found)

    await eventually(came, within_s=within_s)
    return found[0]
