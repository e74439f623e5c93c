"""`TritonEngine`: a Triton server behind the worker's `Engine` port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from inferbus.contracts.presence import EngineStats
from inferbus.errors import DependencyDown, EngineDead
from inferbus.worker.open_calls import OpenCalls
from inferbus.worker.ports import Sink, Work
from inferbus_triton_worker.answering import Answering
from inferbus_triton_worker.batcher import Batcher
from inferbus_triton_worker.caller import Caller
from inferbus_triton_worker.catalog import Catalog
from inferbus_triton_worker.feature_reading import Features, NoFeatures
from inferbus_triton_worker.healing import Healer
from inferbus_triton_worker.ports import TritonServer
from inferbus_triton_worker.prober import Prober
from inferbus_triton_worker.settings import TritonSettings
from inferbus_triton_worker.turns import AlonesTurns, Turns

_READY_S = 2.0
_ASK_AGAIN_S = 0.1
log = structlog.get_logger()


class Home(Protocol):
    """Where the server lives: a child of this process, or somewhere else."""

    async def start(self) -> str:
        """See that there is a server; gives the address of its gRPC."""
        ...

    async def stop(self) -> None: ...

    async def died(self) -> str:
        """Wait for its end, where that can be seen; says how."""
        ...


class _Up:
    """All that belongs to one run of the server."""

    def __init__(
        self,
        server: TritonServer,
        settings: TritonSettings,
        on_dead: Callable[[str], None],
        turns: Turns,
        is_alone: Callable[[], bool],
    ) -> None:
        self.server = server
        self.catalog = Catalog(server)
        self.healer = Healer(server, Path(settings.repository) if settings.repository else None, turns)
        self.caller = Caller(server, self.healer, on_unreachable=lambda: on_dead("it does not answer"))
        infer = self.caller.infer
        self.batcher = Batcher(infer, is_alone=is_alone) if settings.micro_batch else None
        self.prober = Prober(
            server, self.catalog, self.caller, on_dead=on_dead, every_s=settings.probe_every_s,
            timeout_s=settings.probe_timeout_s,
        )  # fmt: skip


class TritonEngine:
    """Implements `Engine`. `connect` makes a client of the server at an address. `server_name` gives the name a model has
    inside the server."""

    name = "triton"
    fingerprint = "triton"

    def __init__(self, settings: TritonSettings, home: Home, connect: Callable[[str], TritonServer]) -> None:
        self._settings = settings
        self._home = home
        self._connect = connect
        self._calls = OpenCalls()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: list[asyncio.Task[None]] = []
        self._up: _Up | None = None
        self._answering: Answering | None = None
        self._death: asyncio.Future[str] | None = None
        self._starts = 0
        self.server_name: Callable[[str], str] = lambda model: model
        self.features: Features = NoFeatures()
        """Who reads features for requests that bring ids."""
        self.turns: Turns = AlonesTurns()
        """Whose turn it is to load a model; set it before `start` where several workers use the server."""

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start or find the server, and wait until its models are loaded.

        Raises:
            EngineDead: it was not ready in time.
        """
        self._starts += 1
        address = await self._home.start()
        server = self._connect(address)
        try:
            await self._until_ready(server, address)
        except BaseException:
            await server.close()
            raise
        self._death = asyncio.get_running_loop().create_future()
        up = self._up = _Up(server, self._settings, self._on_death, self.turns, lambda: len(self._calls) <= 1)
        self._answering = Answering(up.catalog, up.caller, up.batcher, self._name_of, lambda: self.features)
        self._watches = [
            asyncio.create_task(up.prober.run(), name="triton-prober"),
            asyncio.create_task(self._watch(), name="triton-watch"),
        ]
        log.info("engine_started", engine=self.name, address=address, slots=self.slots, starts=self._starts)

    async def stop(self) -> None:
        up, self._up = self._up, None
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        self._watches.clear()
        self._calls.fail_all(lambda: EngineDead("the engine was stopped"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if up is not None:
            await up.server.close()
        await self._home.stop()

    async def died(self) -> str:
        return "it was never started" if self._death is None else await asyncio.shield(self._death)

    async def _until_ready(self, server: TritonServer, address: str) -> None:
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                while not await server.ready(_READY_S):  # noqa: ASYNC110  # nothing tells: it is another process
                    await asyncio.sleep(_ASK_AGAIN_S)
        except TimeoutError:
            raise EngineDead(f"Triton at {address} was not ready in {self._settings.start_timeout_s:g} s") from None

    async def _watch(self) -> None:
        self._on_death(await self._home.died())

    def _on_death(self, why: str) -> None:
        if self._up is None or self._death is None or self._death.done():  # stopped, or known already
            return
        failed = self._calls.fail_all(lambda: EngineDead(f"Triton died: {why}"))
        log.error("engine_died", engine=self.name, why=why, failed=failed)
        self._death.set_result(why)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def submit(self, work: Work, sink: Sink) -> None:
        call = self._calls.begin(work.key, sink)
        answering = self._answering
        if self._up is None or answering is None or self._death is None or self._death.done():
            call.fail(DependencyDown("Triton is not running"))
            return
        task = self._death.get_loop().create_task(answering.answer(work, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        call.on_stop(lambda: _stop(task))

    def _name_of(self, model: str) -> str:
        return self.server_name(model)

    def abort(self, key: str) -> None:
        self._calls.abort(key, "aborted")

    # --- what others want to know -------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        return self._settings.slots

    @property
    def server(self) -> TritonServer:
        """The server, for who looks after it.

        Raises:
            DependencyDown: it is not running.
        """
        if self._up is None:
            raise DependencyDown("Triton is not running")
        return self._up.server

    @property
    def heals(self) -> int:
        """How many times a model of the running server was loaded anew because it had died."""
        return self._up.healer.count if self._up is not None else 0

    def healed_elsewhere(self, model: str) -> None:
        """Another worker of this server has loaded a model anew because it had died."""
        if self._up is not None:
            self._up.healer.healed_elsewhere(model)
            self._up.caller.end_streams(model)

    def forget(self, model: str = "") -> None:
        """A model was loaded or unloaded: ask again what it takes."""
        if self._up is not None:
            self._up.catalog.forget(model)

    def stats(self) -> EngineStats:
        up = self._up
        waiting = up.batcher.waiting if up is not None and up.batcher is not None else 0
        return EngineStats(
            running=len(self._calls) - waiting,
            waiting=waiting,
            generated_tokens=self._answering.rows if self._answering is not None else 0,
            restarts=max(0, self._starts - 1),
        )


def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
