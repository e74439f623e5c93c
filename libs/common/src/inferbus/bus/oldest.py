"""Oldest: how old the oldest message is in the streams that take some subjects, without reading it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from inferbus.bus import Bus
from inferbus.errors import DependencyDown

NOTHING = float("inf")


class _State(msgspec.Struct):
    messages: int = 0
    first_ts: datetime | None = None


class _Info(msgspec.Struct):
    state: _State | None = None


class _Names(msgspec.Struct):
    streams: list[str] | None = None
    total: int = 0


async def oldest_stored(bus: Bus, subjects: str) -> float:
    """Give when the oldest message was stored, in Unix seconds of server time; `NOTHING` where there is none.

    Raises:
        DependencyDown: a stream does not answer, or does not say all.
    """
    query = msgspec.json.encode({"subject": subjects})
    names = msgspec.json.decode((await bus.request("$JS.API.STREAM.NAMES", query)).data, type=_Names)
    streams = names.streams or []
    if len(streams) < names.total:
        raise DependencyDown(f"{names.total} streams take {subjects}, {len(streams)} are named")
    oldest = NOTHING
    for name in streams:
        state = msgspec.json.decode((await bus.request(f"$JS.API.STREAM.INFO.{name}")).data, type=_Info).state
        if state is None:
            raise DependencyDown(f"{name} does not say how old its messages are")
        if state.messages and state.first_ts is not None:
            oldest = min(oldest, state.first_ts.timestamp())
    return oldest
