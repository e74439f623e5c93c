"""Reading a plan's views from SQLite. By a query of its own, since Feast's takes whichever feature's time comes last for a row's:
a row is as new as the newest value in it, as in Redis. Its times are whole seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from feast import RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.sqlite import _quote_id, _table_id

from inferbus_features.adapters.feast.kinds import Value
from inferbus_features.adapters.feast.plans import ServicePlan, ViewPlan
from inferbus_features.adapters.feast.reading import Keys, distinct, entity_key, spread
from inferbus_features.ports import Column

_AT_ONCE = 500
_VERSION = 3  # of how keys are written down


class SqliteReader:
    """For the embedded store. `store` is Feast's."""

    def __init__(self, store: Any, config: RepoConfig) -> None:
        self._store = store
        self._config = config

    def read(self, plan: ServicePlan, columns: dict[str, list[Any]], rows: int) -> list[Column]:
        found: list[Column] = []
        for view in plan.views:
            keys, places = distinct(view, columns, rows)
            stored: dict[bytes, dict[str, bytes]] = {}
            times: dict[bytes, float] = {}
            names = [_name(view, key) for key in keys]
            for name, feature, value, moment in self._rows(view, names):
                stored.setdefault(name, {})[feature] = value
                times[name] = max(times.get(name, 0.0), _seconds(moment))
            of_rows = [times.get(name, 0.0) for name in names]
            for one in view.features:
                decode = one.kind.decode()
                raw = (stored.get(name, {}).get(one.feature) for name in names)
                values = [decode(Value.FromString(value)) if value else None for value in raw]
                found.append(spread(one.name, view.name, values, of_rows, places))
        return found

    def newest(self, view: ViewPlan, keys: Keys) -> list[float]:
        names = [_name(view, key) for key in keys]
        times: dict[bytes, float] = {}
        for name, _, _, moment in self._rows(view, names):
            times[name] = max(times.get(name, 0.0), _seconds(moment))
        return [times.get(name, 0.0) for name in names]

    def _rows(self, view: ViewPlan, names: list[bytes]) -> Iterator[tuple[bytes, str, bytes, datetime]]:
        connection: sqlite3.Connection = self._store._get_conn(self._config)
        table = _quote_id(_table_id(self._config.project, view.view, False))
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT entity_key, feature_name, value, event_ts FROM {table} WHERE entity_key IN ({marks})"  # noqa: S608 - quoted by Feast
            yield from connection.execute(query, some)


def _name(view: ViewPlan, key: tuple[Any, ...]) -> bytes:
    return bytes(serialize_entity_key(entity_key(view, key), entity_key_serialization_version=_VERSION))


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
