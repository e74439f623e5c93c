"""EdgeIndex: the embedded engine, behind the process that owns its folder. The service's loop never waits for the engine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from inferbus.contracts.vectors import Field
from inferbus.errors import DependencyDown, EngineDead, error_from
from inferbus_vectors.adapters.qdrant_edge import wire
from inferbus_vectors.adapters.qdrant_edge.link import Link
from inferbus_vectors.adapters.qdrant_edge.silence import Silence
from inferbus_vectors.domain.points import Found, FoundPage, Query, ShardSpec, ShardStats, Where, Write

_AGAIN_S = (0.05, 0.2, 0.5, 1.0, 2.0)
_LOOK_S = 0.2
_STOP_S = 30.0
SILENCE_S, _LONG_S = 20.0, 900.0
"""So long an owner may say nothing that was asked something; and while it works at what it called long."""
log = structlog.get_logger()


class EdgeIndex:
    """Implements `VectorIndex`. An owner that dies, or hangs and is killed, is started again; what it had been asked fails with
    `EngineDead`. `silence_s`: so long it may say nothing while something is expected of it."""

    def __init__(self, folder: Path, *, silence_s: float = SILENCE_S) -> None:
        self._folder = folder
        self._silence_s = silence_s
        self._silence = Silence(silence_s, _LONG_S)
        self._was_owned = False
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[Any, asyncio.Future[Any]]] = {}
        self._results = msgspec.msgpack.Decoder(wire.Result)
        self._answers = {op: msgspec.msgpack.Decoder(answer) for op, (_, answer) in wire.TYPES.items()}
        self._link: Link | None = None
        self._state = ""
        self._owned = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False
        self.pid = 0
        """Of the owner; 0 while there is none."""
        self.deaths = 0

    async def start(self) -> None:
        """Start the owner; `why_not_ready` tells when the folder is its own."""
        self._keeping = asyncio.create_task(self._keep(), name="edge-owner")

    async def owned(self) -> None:
        """Wait until the folder is ours."""
        await self._owned.wait()

    def why_not_ready(self) -> str | None:
        if self._owned.is_set():
            return None
        is_anothers = self._state == wire.WAITING
        return f"the folder {self._folder} belongs to another process" if is_anothers else "the engine is starting"

    async def stop(self) -> None:
        """Have the owner flush and end. What it was asked and has not answered fails."""
        self._stopping = True
        if self._link is not None:
            self._link.close()
        if self._keeping is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._keeping), _STOP_S)
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    # --- VectorIndex --------------------------------------------------------------------------------------------------

    async def ensure(self, shard: ShardSpec) -> None:
        await self._ask(wire.ENSURE, shard.name, shard)

    async def drop(self, shard: str, *, only_if_empty: bool = False) -> bool:
        return bool(await self._ask(wire.DROP, shard, only_if_empty))

    async def shards(self) -> list[str]:
        return list(await self._ask(wire.SHARDS, "", None))

    async def index_fields(self, shard: str, fields: Sequence[Field]) -> None:
        await self._ask(wire.INDEX_FIELDS, shard, fields)

    async def write(self, shard: str, writes: Sequence[Write]) -> list[str]:
        return list(await self._ask(wire.WRITE, shard, writes))

    async def erase(self, shard: str, where: Where) -> int:
        return int(await self._ask(wire.ERASE, shard, where))

    async def sweep(self, shard: str, *, older_than: float) -> int:
        return int(await self._ask(wire.SWEEP, shard, older_than))

    async def search(self, shard: str, query: Query) -> list[Found]:
        return list(await self._ask(wire.SEARCH, shard, query))

    async def read(
        self, shard: str, where: Where, *, after: str = "", limit: int = 100, with_vector: bool = False
    ) -> FoundPage:
        page: FoundPage = await self._ask(wire.READ, shard, wire.Reading(where, after, limit, with_vector))
        return page

    async def count(self, shard: str, where: Where) -> int:
        return int(await self._ask(wire.COUNT, shard, where))

    async def stats(self, shard: str) -> ShardStats:
        stats: ShardStats = await self._ask(wire.STATS, shard, None)
        return stats

    async def optimise(self, shard: str) -> None:
        await self._ask(wire.OPTIMISE, shard, None)
        while (await self.stats(shard)).optimising:  # noqa: ASYNC110  # it is another process that knows
            await asyncio.sleep(_LOOK_S)

    # --- the owner ------------------------------------------------------------------------------------------------------

    async def _ask(self, op: str, shard: str, body: object) -> Any:
        """Ask the owner.

        Raises:
            DependencyDown: there is none yet, or a search had no answer in time. EngineDead: it died, or hung and was killed.
        """
        link = self._link
        if link is None or not self._owned.is_set():
            raise DependencyDown(self.why_not_ready() or "the engine is starting", retry_after_s=0.2)
        call = wire.Call(next(self._ids), op, shard, wire.raw(body))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[call.id] = (self._answers[op], future)
        try:
            link.write(wire.frame(call))
            return await future
        except ConnectionError as exc:
            raise EngineDead("the engine died", retry_after_s=0.2) from exc
        finally:
            self._waiting.pop(call.id, None)

    async def _keep(self) -> None:
        failures = 0
        while True:
            owned = await self._run_owner()
            if self._stopping:
                return
            self.deaths += 1
            failures = 0 if owned else min(failures + 1, len(_AGAIN_S) - 1)
            log.error("engine_died", folder=str(self._folder), deaths=self.deaths)
            await asyncio.sleep(_AGAIN_S[failures])

    async def _run_owner(self) -> bool:
        """Run one owner from start to end; says whether the folder ever was its own."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"{__package__}.owner", str(self._folder), str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), env=os.environ.copy(), stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        self._silence = Silence(self._silence_s, _LONG_S)
        self._silence.heard(begins_long_work=True)  # an interpreter that starts
        self._was_owned = False
        loop = asyncio.get_running_loop()
        _, self._link = await loop.create_unix_connection(lambda: Link(self._on_frame), sock=ours)
        link, self.pid = self._link, process.pid
        watching = asyncio.create_task(self._watch(process, link), name="edge-watch")
        try:
            await asyncio.shield(link.lost)
        finally:
            watching.cancel()
            link.abort()
            self._lose()
            with contextlib.suppress(ProcessLookupError):
                if not self._stopping:
                    process.kill()
            await process.wait()
        return self._was_owned

    async def _watch(self, process: asyncio.subprocess.Process, link: Link) -> None:
        """Kill an owner that hangs in a call: what it was asked fails, and the next one opens what is durable."""
        silence = self._silence
        while not link.lost.done():
            await asyncio.sleep(silence.every_s)
            if silence.looked(expected=self._is_expected()):
                log.error("engine_hangs", folder=str(self._folder), pid=process.pid, waiting=len(self._waiting))
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                link.abort()  # at once: in an uninterruptible sleep it does not die yet
                return

    def _is_expected(self) -> bool:
        """Whether the owner owes us something: an answer, or the folder it opens. Waiting for another process, it does not."""
        return bool(self._waiting) or (not self._owned.is_set() and self._state != wire.WAITING)

    def _on_frame(self, data: bytes) -> None:
        result = self._results.decode(data)
        if result.id == 0:
            self._on_state(msgspec.msgpack.decode(result.body, type=str))
            return
        self._silence.heard()
        decoder, future = self._waiting.get(result.id, (None, None))
        if future is None or future.done():
            return
        if result.code:
            future.set_exception(error_from(result.code, result.message))
        else:
            assert decoder is not None  # noqa: S101  # for the type checker: it came with the future
            future.set_result(decoder.decode(result.body))

    def _on_state(self, state: str) -> None:
        self._silence.heard(begins_long_work=state in (wire.OPENING, wire.LONG))
        if state == wire.LONG:
            return
        self._state = state
        if state == wire.OWNED:
            self._was_owned = True
            self._owned.set()
        elif state == wire.WAITING:
            log.warning("folder_is_another_s", folder=str(self._folder))

    def _lose(self) -> None:
        self._owned.clear()
        self._state, self.pid, self._link = "", 0, None
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineDead("the engine died, or hung and was killed", retry_after_s=0.2))
