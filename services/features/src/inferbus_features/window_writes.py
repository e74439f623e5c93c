"""StoreWrites: what comes out of windows into the store, waiting for a store that is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog

from inferbus_features.domain.definitions import WindowedView
from inferbus_features.domain.event_reading import key_values
from inferbus_features.domain.window_state import WindowValues
from inferbus_features.ports import FeatureStore, StoreDown, WriteRow

_ROWS = 500
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
log = structlog.get_logger()


class StoreWrites:
    """For an engine's thread: `write` returns when the values are stored. Of an entity's windows the newest is."""

    def __init__(self, store: FeatureStore, stopping: Callable[[], bool]) -> None:
        self._store = store
        self._stopping = stopping
        self.rows = 0

    def write(self, view: WindowedView, items: Iterable[tuple[str, WindowValues]]) -> None:
        """Write windows by entity.

        Raises:
            StoreDown: it is away, and the process is to stop: what is not stored is computed again.
        """
        newest: dict[str, WindowValues] = {}
        for entity, values in items:
            known = newest.get(entity)
            if known is None or known.timestamp_us < values.timestamp_us:
                newest[entity] = values
        rows = [row_of(view, key_values(entity), values) for entity, values in newest.items()]
        for n in range(0, len(rows), _ROWS):
            self._surely(view.name, rows[n : n + _ROWS])

    def _surely(self, view: str, rows: list[WriteRow]) -> None:
        tries = 0
        while True:
            try:
                self._store.write(view, rows)
            except StoreDown as exc:
                if self._stopping():
                    raise
                log.warning("features_store_down", error=str(exc), view=view)
                time.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
                tries += 1
            else:
                self.rows += len(rows)
                return


def row_of(view: WindowedView, key: list[object], values: WindowValues) -> WriteRow:
    """Make a window of an entity a row of the store."""
    features = {aggregate.name: value for aggregate, value in zip(view.aggregates, values.values, strict=True)}
    return WriteRow(dict(zip(view.join_keys, key, strict=True)), features, values.timestamp_us / 1e6)
