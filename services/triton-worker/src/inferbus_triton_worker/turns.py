"""Turns: of several workers that use one Triton, one at a time loads a model, and none loads what another just has.

A record per model says who is at it (bucket `turns`); it is only ever written over the revision that was read. A worker that
dies lets go by itself. Where the bus cannot be reached, a worker does without: a model loaded twice is better than none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import last_stored
from inferbus.contracts.turns import ModelTurn
from inferbus.errors import InferbusError

HOLD_S = 10.0
"""How long a turn is had without being renewed."""
_LOOK_AGAIN_S = 0.5
_KEEP_S = 7 * 86_400
_LOOPBACK = ("localhost", "127.", "[::1]", "unix:")
log = structlog.get_logger()


class Turn:
    """`mine`: this worker is to do it; else another one has, while this one waited. `done`: set it to say that it was."""

    def __init__(self, *, mine: bool) -> None:
        self.mine = mine
        self.done = False


class Turns(Protocol):
    """Gives turns at the models of one server."""

    def healing(self, model: str) -> AbstractAsyncContextManager[Turn]:
        """Have a turn at healing a model, or learn that it was healed meanwhile."""
        ...

    def operation(self, model: str, operation: str) -> AbstractAsyncContextManager[Turn]:
        """Have a turn at an administrator's operation, or learn that it was carried out. `operation` empty: it has no name."""
        ...


class AlonesTurns:
    """Implements `Turns` for the only worker of a server."""

    @asynccontextmanager
    async def healing(self, model: str) -> AsyncIterator[Turn]:  # noqa: ARG002  # the protocol's
        yield Turn(mine=True)

    @asynccontextmanager
    async def operation(self, model: str, operation: str) -> AsyncIterator[Turn]:  # noqa: ARG002  # the protocol's
        yield Turn(mine=True)


def server_of(address: str) -> str:
    """Name a server for the bus: the same for all workers that name it alike. One on this machine is this machine's."""
    where = f"{socket.gethostname()}/{address}" if address.startswith(_LOOPBACK) else address
    return hashlib.sha256(where.lower().encode()).hexdigest()[:16]


class SharedTurns(LocalCopy):
    """Implements `Turns` with a record on the bus. `on_healed` hears which model another worker has healed."""

    def __init__(self, bus: Bus, server: str, holder: str, on_healed: Callable[[str], None]) -> None:
        self._bus = bus
        self._server = server
        self._holder = holder
        self._on_healed = on_healed
        self._heals: dict[str, int] = {}
        self._models: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._locks: dict[str, asyncio.Lock] = {}
        super().__init__(bus, routes.KV_TURNS, below=f"{server}.")

    @asynccontextmanager
    async def healing(self, model: str) -> AsyncIterator[Turn]:
        async with self._turn(model) as (turn, record):
            if self.ready and record.heals > self._heals.get(model, 0):  # it has not told it yet
                self._heals[model] = record.heals
                self._on_healed(model)
                turn.mine = False
            yield turn
            if turn.mine and turn.done:
                self._heals[model] = record.heals + 1

    @asynccontextmanager
    async def operation(self, model: str, operation: str) -> AsyncIterator[Turn]:
        async with self._turn(model, operation) as (turn, record):
            turn.mine = not operation or record.operation != operation
            yield turn

    def _on_change(self, key: str, value: bytes | None) -> None:
        """Take in what the bucket says of one model."""
        self._changed.set()
        self._changed = asyncio.Event()
        if value is None:  # nothing happened to it for a week
            self._heals.pop(self._models.get(key, ""), None)
            return
        record = _record_of("", value)
        self._models[key] = record.model
        known, self._heals[record.model] = self._heals.get(record.model, 0), record.heals
        if record.heals > known and self.ready:
            self._on_healed(record.model)

    # --- the record ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, model: str, operation: str = "") -> AsyncIterator[tuple[Turn, ModelTurn]]:
        """Hold the record; what was done is written into it at the end."""
        turn = Turn(mine=True)
        async with self._locks.setdefault(model, asyncio.Lock()):
            try:
                record = await self._take(model)
            except InferbusError as exc:
                log.warning("turn_not_taken", model=model, error=exc.message)
                yield turn, ModelTurn(model=model)
                return
            renewing = asyncio.create_task(self._renew(model), name="turn-renewal")
            try:
                yield turn, record
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
                did = turn.mine and turn.done
                heals = record.heals + (1 if did and not operation else 0)
                told = operation if did and operation else record.operation
                await self._let_go(ModelTurn(model=model, heals=heals, operation=told))

    async def _take(self, model: str) -> ModelTurn:
        """Wait for the turn and take it; gives the record as it was found.

        Raises:
            DependencyDown: the bus cannot be reached.
        """
        while True:
            changed = self._changed
            revision, record = await self._read(model)
            if not record.is_held(self._holder, self._watch.clock.now()):
                with contextlib.suppress(WrongSequence):  # another worker was first
                    await self._write(revision, self._held(record))
                    return record
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK_AGAIN_S)

    async def _renew(self, model: str) -> None:
        while True:
            await asyncio.sleep(HOLD_S / 3)
            try:
                revision, record = await self._read(model)
                if record.holder != self._holder:
                    return  # it was taken for dead
                await self._write(revision, self._held(record))
            except InferbusError as exc:
                log.info("turn_not_renewed", model=model, error=exc.message)

    async def _let_go(self, left: ModelTurn) -> None:
        try:
            revision, record = await self._read(left.model)
            if record.holder == self._holder:
                await self._write(revision, left)
        except InferbusError as exc:  # it goes by itself
            log.info("turn_not_returned", model=left.model, error=exc.message)

    def _held(self, record: ModelTurn) -> ModelTurn:
        return msgspec.structs.replace(record, holder=self._holder, until=self._watch.clock.now() + HOLD_S)

    def _subject(self, model: str) -> str:
        return routes.kv_subject(routes.KV_TURNS, routes.turn_key(self._server, model))

    async def _read(self, model: str) -> tuple[int, ModelTurn]:
        stored = await last_stored(self._bus, routes.kv_stream(routes.KV_TURNS), self._subject(model))
        return (0, ModelTurn(model=model)) if stored is None else (stored.seq, _record_of(model, stored.data))

    async def _write(self, revision: int, record: ModelTurn) -> None:
        data, expected = msgspec.json.encode(record), {EXPECTED: str(revision)}
        await self._bus.accept(self._subject(record.model), data, expected, ttl_s=_KEEP_S)


def _record_of(model: str, data: bytes) -> ModelTurn:
    """Read a record. One that cannot be read, or that expired, is nobody's."""
    try:
        return msgspec.json.decode(data, type=ModelTurn)
    except msgspec.DecodeError:
        return ModelTurn(model=model)
