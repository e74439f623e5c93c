"""Reconciliation: at start, whenever `models` changes, and after every reconnect.

It updates; it never deletes and re-creates a stream or consumer, and it removes nothing that may still hold work.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.errors import DependencyDown
from inferbus.models import ModelRegistry
from inferbus.topology.configs import TopologySettings, consumer_configs, stream_configs
from inferbus.topology.stream_memory import StreamMemory, StreamsLost

_RETRY_S = 0.5
_GATHER_S = 0.05
log = structlog.get_logger()


class _ApiAnswer(msgspec.Struct):
    error: dict[str, Any] | None = None


async def reconcile(
    bus: Bus, settings: TopologySettings, models: list[ModelEntry], memory: StreamMemory | None = None
) -> None:
    """Create what is missing, as far as `memory` allows that, and update what differs.

    Raises:
        StreamsLost: what is missing must not be made anew; nothing was.
        DependencyDown: the bus is away or refused; the message says what.
    """
    configs = {config["name"]: config for config in stream_configs(settings, bus.region, models)}
    missing = []
    for name, config in configs.items():
        answer = await _api(bus, f"$JS.API.STREAM.UPDATE.{name}", config)
        if answer.error is not None and answer.error.get("err_code") == 10059:  # stream not found
            missing.append(name)
        else:
            _check(answer, f"stream {name}")
    if memory is not None:
        memory.check(missing, volatile=[name for name, config in configs.items() if config["storage"] == "memory"])
    # All are tried before one that failed counts: where each fails once (leftovers of a lost store), that is one round.
    made = {name: await _api(bus, f"$JS.API.STREAM.CREATE.{name}", configs[name]) for name in missing}
    for name, answer in made.items():
        _check(answer, f"stream {name}")
    if memory is not None:
        memory.made([name for name, config in configs.items() if config["storage"] == "file"])
    for stream, config in consumer_configs(bus.region, models):
        name = config["durable_name"]
        body = {"stream_name": stream, "config": config}
        _check(await _api(bus, f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}", body), f"consumer {stream}/{name}")


async def _api(bus: Bus, subject: str, body: dict[str, Any]) -> _ApiAnswer:
    answer = await bus.request(subject, msgspec.json.encode(body), timeout_s=5.0)
    return msgspec.json.decode(answer.data, type=_ApiAnswer)


def _check(answer: _ApiAnswer, what: str) -> None:
    if answer.error is not None:
        raise DependencyDown(f"{what}: {answer.error.get('description')} ({answer.error.get('err_code')})")


class Topology:
    """Keeps reconciling until stopped."""

    def __init__(self, bus: Bus, settings: TopologySettings, registry: CollectorRegistry) -> None:
        self._runs = Counter(
            "inferbus_topology_reconciles_total", "Reconciliations, by outcome", ["outcome"], registry=registry
        )
        Gauge("inferbus_topology_models", "Models known", registry=registry).set_function(
            lambda: len(self._models.all())
        )
        self._bus = bus
        self._settings = settings
        self._kick = asyncio.Event()
        self._models = ModelRegistry(bus, self._kick.set)
        self._memory = StreamMemory(settings.create, Path(settings.known_streams) if settings.known_streams else None)
        self._lost = ""
        self.reconciled = asyncio.Event()

    def why_not_ready(self) -> str | None:
        """Give the reason for `/health/ready`, None when all is as it should be."""
        return self._lost or (None if self.reconciled.is_set() else "reconciling")

    async def run(self, stopping: asyncio.Event) -> None:
        """Reconcile until `stopping` is set, whatever it is waiting for then."""
        self._bus.on_reconnect(self._on_reconnect)
        work = asyncio.create_task(self._keep_reconciling(), name="topology")
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()  # it never returns: what it raised ends the process
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)
            await self._models.stop()

    async def _keep_reconciling(self) -> None:
        while True:  # the buckets must exist before they can be watched
            if await self._try([]):
                break
            await asyncio.sleep(_RETRY_S)
        await self._models.start()
        await self._models.loaded()
        self._kick.set()
        while True:
            await self._kick.wait()
            self._kick.clear()
            if await self._try(self._models.all()):
                self.reconciled.set()
                await asyncio.sleep(_GATHER_S)  # models applied one after the other are reconciled together
            else:
                self._kick.set()
                await asyncio.sleep(_RETRY_S)

    async def _on_reconnect(self) -> None:
        self._kick.set()

    async def _try(self, models: list[ModelEntry]) -> bool:
        try:
            await reconcile(self._bus, self._settings, models, self._memory)
        except StreamsLost as exc:
            if self._lost != exc.message:
                log.error("streams_lost", why=exc.message)
            self._lost = exc.message
            self._runs.labels("refused").inc()
            return False
        except DependencyDown as exc:
            log.warning("reconcile_failed", error=exc.message)
            self._runs.labels("failed").inc()
            return False
        self._lost = ""
        self._runs.labels("ok").inc()
        log.info("reconciled", models=[model.name for model in models])
        return True
