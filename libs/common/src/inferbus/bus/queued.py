"""Queued: what waits in a stream, by subject; and taking all of some subject out."""

from __future__ import annotations

import msgspec

from inferbus.bus import Bus
from inferbus.errors import DependencyDown


class _State(msgspec.Struct, frozen=True):
    subjects: dict[str, int] | None = None


class _Info(msgspec.Struct):
    state: _State = _State()


class _Purged(msgspec.Struct):
    success: bool = False
    purged: int = 0


async def count_by_subject(bus: Bus, stream: str, subject: str) -> dict[str, int]:
    """Count a stream's messages by their subjects, of those a filter matches.

    Raises:
        DependencyDown: the stream does not answer.
    """
    body = msgspec.json.encode({"subjects_filter": subject})
    answer = await bus.request(f"$JS.API.STREAM.INFO.{stream}", body)
    return msgspec.json.decode(answer.data, type=_Info).state.subjects or {}


async def purge(bus: Bus, stream: str, subject: str) -> int:
    """Take all messages of some subjects out of a stream; returns how many there were.

    Raises:
        DependencyDown: the stream does not answer, or will not.
    """
    body = msgspec.json.encode({"filter": subject})
    answer = await bus.request(f"$JS.API.STREAM.PURGE.{stream}", body)
    purged = msgspec.json.decode(answer.data, type=_Purged)
    if not purged.success:
        raise DependencyDown(f"{stream} was not emptied of {subject}")
    return purged.purged
