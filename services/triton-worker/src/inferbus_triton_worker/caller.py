"""Caller: one inference, with what can be done on the spot where it fails: a dead model is healed and asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

from inferbus.errors import DependencyDown, EngineDead, Overloaded
from inferbus_triton_worker.healing import Healer
from inferbus_triton_worker.ports import Busy, InferCall, InferResult, ModelDead, ServerError, TritonServer

_LIVE_S = 2.0
_BUSY_S = 0.2
_HEALS = 2


class Caller:
    """Calls one server. `on_unreachable` hears that it does not answer."""

    def __init__(self, server: TritonServer, healer: Healer, on_unreachable: Callable[[], None]) -> None:
        self._server = server
        self._healer = healer
        self._on_unreachable = on_unreachable
        self._streams: dict[str, set[asyncio.Timeout]] = {}
        self.answered: dict[str, float] = {}
        """When a model last answered anything at all (monotonic seconds)."""

    @property
    def heals(self) -> int:
        """How many times any model was healed."""
        return self._healer.count

    async def infer(self, call: InferCall, timeout_s: float) -> InferResult:
        """Call until there is an answer, or it makes no sense to.

        Raises:
            Refused, TimedOut: the server's own word. EngineDead: the model died under it twice, or the server did.
            Overloaded: the server cannot now. DependencyDown: the model cannot be brought back.
        """
        until = time.monotonic() + timeout_s if timeout_s else 0.0
        for tried in range(_HEALS + 1):
            seen = self.heals
            try:
                result = await self._server.infer(call, max(0.001, until - time.monotonic()) if until else 0.0)
            except ModelDead as exc:
                if tried == _HEALS:
                    raise EngineDead(f"the model died under it again: {exc.message}") from exc
                if tried:  # at first another worker may have healed it
                    await self.heal(exc.model, seen)
                continue
            except Busy as exc:
                raise await self.meaning_of(exc) from exc
            self.answered[call.model] = time.monotonic()
            return result
        raise AssertionError("the last turn returns or raises")

    async def stream(self, call: InferCall, timeout_s: float) -> AsyncGenerator[InferResult, None]:
        """Call a model that answers any number of times. Where nothing came yet, it is as with `infer`; after that, what
        is wrong is raised as it is."""
        for tried in range(_HEALS + 1):
            seen, begun = self.heals, False
            try:
                async with self._until_healed(call.model):
                    async for result in self._server.stream(call, timeout_s):
                        begun = True
                        self.answered[call.model] = time.monotonic()
                        yield result
            except (ModelDead, TimeoutError) as exc:
                if begun or tried == _HEALS:
                    raise EngineDead("the model died under it") from exc
                if tried and isinstance(exc, ModelDead):
                    await self.heal(exc.model, seen)
                continue
            except Busy as exc:
                raise await self.meaning_of(exc) from exc
            return

    @asynccontextmanager
    async def _until_healed(self, model: str) -> AsyncIterator[None]:
        """Run until the model is healed: whose process died in the middle of a stream says nothing, for ever.

        Raises:
            TimeoutError: it was.
        """
        streams = self._streams.setdefault(model, set())
        async with asyncio.timeout(None) as scope:
            streams.add(scope)
            try:
                yield
            finally:
                streams.discard(scope)

    async def heal(self, model: str, seen: int) -> None:
        """Have a model loaded anew.

        Raises:
            DependencyDown: it cannot be.
        """
        try:
            await self._healer.heal(model, seen)
        except ServerError as exc:
            raise DependencyDown(f"model `{model}` died and cannot be loaded: {exc.message}") from exc
        if self.heals > seen:
            self.end_streams(model)

    def end_streams(self, model: str) -> None:
        """A model was healed: the streams it had begun before get nothing more."""
        for scope in list(self._streams.get(model, ())):
            scope.reschedule(0.0)

    async def absence_of(self, busy: Busy) -> Overloaded | DependencyDown:
        """Say the same of a request the server never got: no death of the engine is held against it."""
        meaning = await self.meaning_of(busy)
        return meaning if isinstance(meaning, Overloaded) else DependencyDown(meaning.message)

    async def meaning_of(self, busy: Busy) -> EngineDead | Overloaded:
        """Tell a server that cannot now from one that is not there: both say the same."""
        if await self._server.live(_LIVE_S):
            return Overloaded(f"Triton: {busy.message}", retry_after_s=_BUSY_S)
        self._on_unreachable()
        return EngineDead(f"Triton is gone: {busy.message}")
