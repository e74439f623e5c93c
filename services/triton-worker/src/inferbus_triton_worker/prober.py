"""Prober: looks after models nobody asks at the moment, with a real inference: a server says of a dead model that it is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import structlog

from inferbus.errors import InferbusError
from inferbus_triton_worker.caller import Caller
from inferbus_triton_worker.catalog import Catalog
from inferbus_triton_worker.domain.probing import probe_of
from inferbus_triton_worker.ports import ServerError, TimedOut, TritonServer

_LIVE_S = 5.0
_READY = "READY"
log = structlog.get_logger()


class Prober:
    """`on_dead` hears that the server does not answer. Times in seconds, see the settings."""

    def __init__(
        self,
        server: TritonServer,
        catalog: Catalog,
        caller: Caller,
        *,
        on_dead: Callable[[str], None],
        every_s: float,
        timeout_s: float,
    ) -> None:
        self._server = server
        self._catalog = catalog
        self._caller = caller
        self._on_dead = on_dead
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._probes: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look until cancelled, or until the server is gone."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                if not await self._server.live(_LIVE_S) and not await self._server.live(_LIVE_S):
                    self._on_dead("it does not answer")
                    return
                await self._look_at_models()
        finally:
            for probe in self._probes.values():
                probe.cancel()

    async def _look_at_models(self) -> None:
        try:
            ready = {model.name for model in await self._server.index() if model.state == _READY}
        except ServerError as exc:
            log.warning("index_not_read", error=exc.message)
            return
        quiet_since = time.monotonic() - self._every_s
        for model in sorted(ready - self._probes.keys()):
            if self._caller.answered.get(model, 0.0) < quiet_since:
                task = self._probes[model] = asyncio.create_task(self.probe(model))
                task.add_done_callback(lambda _, model=model: self._probes.pop(model, None))  # type: ignore[misc]  # a default

    async def probe(self, model: str) -> None:
        """Ask a model once. One that is dead is healed by the asking; one that answers nobody is loaded anew."""
        begun, seen = time.monotonic(), self._caller.heals
        try:
            signature = await self._catalog.signature(model, "")
            call = probe_of(signature)
            if call is None:
                return
            if not signature.decoupled:
                await self._caller.infer(call, self._timeout_s)
                return
            async with aclosing(self._caller.stream(call, self._timeout_s)) as results:
                async for _ in results:
                    return  # it answers
        except TimedOut:
            if self._caller.answered.get(model, 0.0) < begun:
                log.error("model_hangs", model=model, seconds=self._timeout_s)
                await self._heal(model, seen)
        except ServerError:
            return  # it answers, if only that it does not like zeros
        except InferbusError as exc:
            log.warning("model_not_well", model=model, error=exc.message)

    async def _heal(self, model: str, seen: int) -> None:
        try:
            await self._caller.heal(model, seen)
        except InferbusError as exc:
            log.warning("model_not_well", model=model, error=exc.message)
