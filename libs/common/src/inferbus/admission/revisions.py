"""Revisions: read an entry of a bucket with its revision, and write over exactly that one."""

from __future__ import annotations

import secrets

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, Stored, last_stored, read_stored

_MSG_ID = "Nats-Msg-Id"
_DELETED = {"KV-Operation": "DEL"}


class Held(msgspec.Struct, frozen=True):
    """What a bucket holds under a key; `data` is None where that is nothing. `revision` is what to write over."""

    data: bytes | None
    revision: int


async def read(bus: Bus, bucket: str, key: str) -> Held:
    """Read one key.

    Raises:
        DependencyDown: the bus stays away.
    """
    found = await last_stored(bus, routes.kv_stream(bucket), routes.kv_subject(bucket, key), hold_s=HOLD_S)
    if found is None:
        return Held(None, 0)
    return Held(None if _is_marker(found) else found.data, found.seq)


async def read_all(bus: Bus, bucket: str, prefix: str = "") -> list[bytes]:
    """Read every entry whose key is below `prefix` (`team.acme.`), in the order they were written."""
    subject = routes.kv_subject(bucket, prefix + ">")
    found = await read_stored(bus, routes.kv_stream(bucket), subject)
    return [one.data for one in found if not _is_marker(one)]


async def read_keys(bus: Bus, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Read every entry whose key is below `prefix`, by its key."""
    start = routes.kv_subject(bucket, "")
    found = await read_stored(bus, routes.kv_stream(bucket), routes.kv_subject(bucket, prefix + ">"))
    return {one.headers["Nats-Subject"].removeprefix(start): one.data for one in found if not _is_marker(one)}


async def write(bus: Bus, bucket: str, key: str, data: bytes | None, revision: int) -> bool:
    """Write a key over a revision, None to delete it; False where another revision is there by now.

    Raises:
        DependencyDown: the bus is away; it may have been written all the same.
    """
    headers = {EXPECTED: str(revision)} | (_DELETED if data is None else {})
    subject, msg_id = routes.kv_subject(bucket, key), secrets.token_hex(12)
    try:
        await bus.accept(subject, data or b"", headers, msg_id=msg_id)
    except WrongSequence:
        found = await last_stored(bus, routes.kv_stream(bucket), subject, hold_s=HOLD_S)
        return found is not None and found.headers.get(_MSG_ID) == msg_id  # ours, and its acknowledgement was lost
    return True


def _is_marker(found: Stored) -> bool:
    return "KV-Operation" in found.headers or "Nats-Marker-Reason" in found.headers
