"""Stored: read what a stream has kept of one subject, without a consumer (direct gets)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
from nats.aio.msg import Msg

from inferbus.bus import Bus
from inferbus.errors import DependencyDown

_BATCH = 512
_BATCH_BYTES = 4 * 1024 * 1024
_TIMEOUT_S = 5.0
_AGAIN_S = 0.05
HOLD_S = 3.0
"""How long a request waits for a bus that reconnects, in seconds."""
_END_OF_BATCH, _NOTHING = "204", "404"


class Stored(msgspec.Struct, frozen=True):
    """One stored message. `seq` is its sequence in the stream."""

    seq: int
    headers: dict[str, str]
    data: bytes


async def last_stored(bus: Bus, stream: str, subject: str, *, hold_s: float = 0.0) -> Stored | None:
    """Read the newest message of a subject; None if there is none. While the bus is away it waits for up to `hold_s`.

    Raises:
        DependencyDown: the stream does not answer (or does not exist).
    """
    message = await _ask(bus, f"$JS.API.DIRECT.GET.{stream}.{subject}", time.monotonic() + hold_s)
    headers = message.headers or {}
    if "Status" in headers:
        if headers["Status"] == _NOTHING:
            return None
        raise DependencyDown(f"{stream} answers {headers['Status']}")
    return Stored(int(headers["Nats-Sequence"]), dict(headers), message.data)


async def _ask(bus: Bus, subject: str, give_up: float) -> Msg:
    while True:
        try:
            return await bus.request(subject)
        except DependencyDown:
            if time.monotonic() + _AGAIN_S >= give_up:
                raise
            await asyncio.sleep(_AGAIN_S)
            await bus.wait_connected(give_up - time.monotonic())


class _Info(msgspec.Struct):
    created: str = ""


async def created_at(bus: Bus, stream: str) -> str:
    """Say when a stream was made: what tells it from another of its name.

    Raises:
        DependencyDown: it does not answer, or does not exist.
    """
    message = await bus.request(f"$JS.API.STREAM.INFO.{stream}")
    created = msgspec.json.decode(message.data, type=_Info).created
    if not created:
        raise DependencyDown(f"there is no stream {stream}")
    return created


async def read_one(bus: Bus, stream: str, seq: int) -> Stored:
    """Read the message of a sequence.

    Raises:
        DependencyDown: it is not there (any more), or the stream does not answer.
    """
    message = await bus.request(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode({"seq": seq}))
    headers = message.headers or {}
    if "Nats-Sequence" not in headers:
        raise DependencyDown(f"{stream} answers {headers.get('Status')} for {seq}")
    return Stored(int(headers["Nats-Sequence"]), dict(headers), message.data)


async def is_stored(bus: Bus, stream: str, seq: int) -> bool:
    """Say whether a message is still in its stream; one that cannot be asked for now is."""
    try:
        message = await bus.request(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode({"seq": seq}))
    except DependencyDown:
        return True
    return (message.headers or {}).get("Status") != _NOTHING


async def read_page(bus: Bus, stream: str, subject: str, from_seq: int = 1) -> tuple[list[Stored], int]:
    """Read the next messages of a subject from a sequence on, in order, and say how many come after them.

    Raises:
        DependencyDown: the stream does not answer in time.
    """
    return await _read_batch(bus, stream, subject, {"seq": max(1, from_seq)})


async def read_since(bus: Bus, stream: str, subject: str, since: float) -> AsyncIterator[list[Stored]]:
    """Read every message of a subject stored since a time (Unix seconds), in order, a page at a time.

    Raises:
        DependencyDown: the stream does not answer in time.
    """
    begin: dict[str, object] = {"start_time": datetime.fromtimestamp(since, tz=UTC).isoformat()}
    while True:
        batch, pending = await _read_batch(bus, stream, subject, begin)
        yield batch
        if not batch or not pending:
            return
        begin = {"seq": batch[-1].seq + 1}


async def read_stored(bus: Bus, stream: str, subject: str, from_seq: int = 1, *, since: float = 0.0) -> list[Stored]:
    """Read every message of a subject from a sequence on, or those stored since a time (Unix seconds), in order.

    Raises:
        DependencyDown: the stream does not answer in time.
    """
    found: list[Stored] = []
    begin: dict[str, object] = {"seq": max(1, from_seq)}
    if since > 0:
        begin = {"start_time": datetime.fromtimestamp(since, tz=UTC).isoformat()}
    while True:
        batch, pending = await _read_batch(bus, stream, subject, begin)
        found += batch
        if not batch or not pending:
            return found
        begin = {"seq": batch[-1].seq + 1}


async def _read_batch(bus: Bus, stream: str, subject: str, begin: dict[str, object]) -> tuple[list[Stored], int]:
    """Read one batch, and how many messages come after it."""
    batch: list[Stored] = []
    end: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    def on_message(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            batch.append(Stored(int(headers["Nats-Sequence"]), headers, message.data))
        elif not end.done():
            end.set_result(headers)

    inbox = bus.nc.new_inbox()
    subscription = await bus.listen(inbox, on_message)
    query = begin | {"next_by_subj": subject, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
    try:
        await bus.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query), reply=inbox)
        async with asyncio.timeout(_TIMEOUT_S):
            headers = await end
    except TimeoutError:
        raise DependencyDown(f"{stream} did not answer in time") from None
    finally:
        await bus.unsubscribe(subscription)
    if headers.get("Status") not in (_END_OF_BATCH, _NOTHING):
        raise DependencyDown(f"{stream} answers {headers.get('Status')}")
    return batch, int(headers.get("Nats-Num-Pending", "0"))
