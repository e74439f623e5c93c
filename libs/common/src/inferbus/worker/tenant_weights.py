"""TenantWeights: the organisations' weights as a local copy; all that a worker reads of the `directory` bucket."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.contracts.directory import ORGANISATIONS, Organisation

log = structlog.get_logger()


class TenantWeights(LocalCopy):
    """Nothing waits for it: until it is loaded every tenant weighs the same, which delays somebody by a turn."""

    def __init__(self, bus: Bus) -> None:
        self._weights: Mapping[str, int] = {}
        super().__init__(bus, routes.KV_DIRECTORY, below=ORGANISATIONS)

    def all(self) -> Mapping[str, int]:
        """Give the weights that are not 1, by tenant; another mapping when one has changed."""
        return self._weights

    def _on_change(self, key: str, value: bytes | None) -> None:
        """Take in what the bucket says of one organisation."""
        tenant, weight = key.removeprefix(ORGANISATIONS), 1
        if value is not None:
            try:
                weight = msgspec.json.decode(value, type=Organisation).weight
            except msgspec.DecodeError as exc:
                log.error("organisation_unreadable", key=key, error=str(exc))
                return  # what was known of it stays
        if weight != self._weights.get(tenant, 1):
            others = {name: known for name, known in self._weights.items() if name != tenant}
            self._weights = others | ({tenant: weight} if weight != 1 else {})
