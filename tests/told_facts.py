"""Reading the stream of facts as an operator does."""

from __future__ import annotations

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.facts import RequestCancelled


class Told(msgspec.Struct, frozen=True):
    """One fact and the subject it was told on."""

    subject: str
    event: RequestCancelled


async def told_facts(operator: Bus) -> list[Told]:
    """Give everything in the stream, oldest first."""
    info = msgspec.json.decode((await operator.request(f"$JS.API.STREAM.INFO.{routes.STREAM_EVENTS}")).data)
    found = []
    for sequence in range(max(1, info["state"]["first_seq"]), info["state"]["last_seq"] + 1):
        query = msgspec.json.encode({"seq": sequence})
        message = await operator.request(f"$JS.API.DIRECT.GET.{routes.STREAM_EVENTS}", query)
        subject = (message.headers or {})["Nats-Subject"]
        found.append(Told(subject, msgspec.json.decode(message.data, type=RequestCancelled)))
    return found
