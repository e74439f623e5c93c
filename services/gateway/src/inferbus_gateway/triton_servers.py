"""TritonServers: what the workers' Triton servers say of their models, asked over the bus.

What clients ask again and again is kept for a moment, and for longer while no worker is there to say it: a pool scaled to
zero still has its models.
"""

from __future__ import annotations

import itertools
import time

import msgspec

from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import Presence
from inferbus.contracts.triton import CONFIG, METADATA, SERVER, STATS, TritonAsk, TritonReply
from inferbus.errors import DependencyDown
from inferbus.process.presence import PresenceTable
from inferbus.process.triton import ask_model, refusal_of

_FRESH_S = 2.0
_KEPT = (METADATA, CONFIG, SERVER)
_MAX_KEPT = 4096
_MAX_ASKED = 3
_NAMED = (METADATA, CONFIG)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_Key = tuple[str, str, str, str]


class TritonServers:
    """Asks one ready worker of a model's pool, the next where that one does not answer."""

    def __init__(self, bus: Bus, presence: PresenceTable) -> None:
        self._bus = bus
        self._presence = presence
        self._turn = itertools.count()
        self._kept: dict[_Key, tuple[float, TritonReply]] = {}

    def workers(self, pool: str) -> list[Presence]:
        """Give the workers of a pool that are ready, by name."""
        return sorted(self._presence.workers(pool), key=lambda beat: beat.process)

    async def say(self, entry: ModelEntry, op: str, version: str = "", *, timeout_s: float = 5.0) -> bytes:
        """Give what a server says of a model, as JSON that names it as its clients do.

        Raises:
            NotFound, InvalidRequest: the server knows no such model or version. DependencyDown: no worker says anything.
        """
        key = (entry.pool, entry.name, op, version)
        kept = self._kept.get(key)
        now = time.monotonic()
        if kept is not None and now - kept[0] < _FRESH_S:
            return _answer(entry, op, kept[1])
        ask = TritonAsk(op=op, model=entry.server_name or entry.name, version=version, timeout_s=timeout_s)
        try:
            reply = await self._ask(entry.pool, ask)
        except DependencyDown:
            if kept is None:
                raise
            return _answer(entry, op, kept[1])
        if op in _KEPT and reply.status < 500:
            self._keep(key, now, reply)
        return _answer(entry, op, reply)

    async def _ask(self, pool: str, ask: TritonAsk) -> TritonReply:
        workers = self.workers(pool)
        if not workers:
            raise DependencyDown(f"no worker of the pool {pool} is ready to say")
        first = next(self._turn)
        error: DependencyDown | None = None
        for turn in range(min(_MAX_ASKED, len(workers))):
            worker = workers[(first + turn) % len(workers)]
            try:
                return await ask_model(self._bus, worker.process, ask)
            except DependencyDown as exc:
                error = exc
        raise error or DependencyDown("nobody was asked")

    def _keep(self, key: _Key, now: float, reply: TritonReply) -> None:
        self._kept[key] = (now, reply)
        if len(self._kept) > _MAX_KEPT:  # versions are the client's to invent
            del self._kept[next(iter(self._kept))]


def _answer(entry: ModelEntry, op: str, reply: TritonReply) -> bytes:
    error = refusal_of(reply)
    if error is not None:
        raise error
    data = bytes(reply.data)
    if not entry.server_name or op not in (*_NAMED, STATS):
        return data
    fields = _decode_object(data)
    if op in _NAMED:
        fields["name"] = msgspec.Raw(msgspec.json.encode(entry.name))
    return msgspec.json.encode(fields)
