"""CollectionsView: all collections and aliases as a local copy of the bucket `collections`; whoever waits is woken."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.contracts.vectors import READY, AliasRecord, CollectionRecord, Named
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, NotFound
from inferbus_vectors.collection_book import named_from, unknown

log = structlog.get_logger()


class CollectionsView(LocalCopy):
    """`on_change` listeners hear of every change, with what the name stands for from then on (None: nothing)."""

    def __init__(self, bus: Bus) -> None:
        self._named: dict[str, Named] = {}
        self._listeners: list[Callable[[str, Named | None], None]] = []
        super().__init__(bus, routes.KV_COLLECTIONS)

    def find(self, tenant: str, name: str) -> CollectionRecord | None:
        """Give a tenant's collection by its name or an alias, one that is being deleted too."""
        found = self._named.get(routes.tenant_key(tenant, name))
        if isinstance(found, AliasRecord):
            found = self._named.get(routes.tenant_key(tenant, found.collection))
        return found if isinstance(found, CollectionRecord) else None

    def get(self, tenant: str, name: str) -> CollectionRecord:
        """Give a tenant's collection that may be searched.

        Raises:
            NotFound: it has none of this name. DependencyDown: what there is has not been read yet.
        """
        record = self.find(tenant, name)
        if record is None or record.state != READY:
            raise self._missing(name)
        return record

    def all(self) -> list[CollectionRecord]:
        return [record for record in self._named.values() if isinstance(record, CollectionRecord)]

    def on_change(self, listener: Callable[[str, Named | None], None]) -> Callable[[], None]:
        """Be called with every key that changed; call what is returned to be called no more."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _missing(self, name: str) -> InferbusError:
        missing: NotFound = unknown(name)
        return missing if self.ready else DependencyDown("the collections are not loaded yet")

    def _on_change(self, key: str, value: bytes | None) -> None:
        named: Named | None = None
        if value is None:
            self._named.pop(key, None)
        else:
            try:
                named = self._named[key] = named_from(value)
            except InvalidRequest as exc:  # what was known of it stays
                log.error("collection_unreadable", key=key, error=exc.message)
                return
        for listener in list(self._listeners):
            listener(key, named)
