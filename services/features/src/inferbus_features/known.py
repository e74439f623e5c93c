"""KnownServices: what is defined, followed in the bucket `features`, and loaded into the store.

Nobody shares a registry file or database: what `inferbus features apply` made lies on the bus, and every process keeps a copy.
"""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.watch import KvWatch
from inferbus.contracts.features import CATALOGUE_KEY, REGISTRY_KEY, Catalogue
from inferbus.errors import DependencyDown
from inferbus_features.domain.services import ServiceSpec, services_of
from inferbus_features.ports import FeatureStore

_AGAIN_S = 1.0
log = structlog.get_logger()


class KnownServices:
    """Follows the catalogue. `ready` once what is defined (which may be nothing) is loaded."""

    def __init__(self, bus: Bus, store: FeatureStore) -> None:
        self._bus = bus
        self._store = store
        self._services: dict[str, ServiceSpec] = {}
        self._watch = KvWatch(bus, routes.KV_FEATURES, self._on_change)
        self._wanted = ""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.why_not_ready = "what is defined is not loaded yet"
        self.loads = 0
        self.loaded = asyncio.Event()
        """Set once what was defined at the start is loaded."""

    async def start(self) -> None:
        await self._watch.start()
        self._task = asyncio.create_task(self._keep_loading(), name="features-registry")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._watch.stop()

    def now(self) -> float:
        """Unix seconds by the server's clock."""
        return self._watch.clock.now()

    @property
    def revision(self) -> str:
        return self._store.catalogue.revision

    def find(self, service: str) -> ServiceSpec | None:
        return self._services.get(service)

    def _on_change(self, key: str, value: bytes | None) -> None:
        if key != CATALOGUE_KEY:
            return
        try:
            self._wanted = msgspec.json.decode(value, type=Catalogue).revision if value else ""
        except msgspec.DecodeError as exc:
            log.error("catalogue_unreadable", error=str(exc))  # what is loaded stays
            return
        self._changed.set()

    async def _keep_loading(self) -> None:
        await self._watch.ready.wait()
        while True:
            self._changed.clear()
            if self._wanted and self._wanted != self.revision:
                try:
                    await self._load()
                except (
                    Exception
                ) as exc:  # what is loaded is served on; a definition nobody can read is told, again and again
                    self.why_not_ready = self.why_not_ready and f"what is defined cannot be loaded: {exc}"
                    log.warning("features_not_loaded", error=repr(exc), revision=self._wanted[:12])
                    await asyncio.sleep(_AGAIN_S)
                    continue
            self.why_not_ready = ""
            self.loaded.set()
            await self._changed.wait()

    async def _load(self) -> None:
        registry = await self._bus.kv_get(routes.KV_FEATURES, REGISTRY_KEY)
        if registry is None or hashlib.sha256(registry).hexdigest() != self._wanted:
            raise DependencyDown("the registry is not the catalogue's")  # the other one is on its way
        self._store.load(registry)
        self._services = services_of(self._store.catalogue)
        self.loads += 1
        log.info("features_loaded", revision=self._wanted[:12], services=len(self._services))
