"""The process of one materialisation, or of one history of windows (`python -m inferbus_features.materialize_process`), a child of the features service."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from inferbus.contracts.features import STREAM_VIEW, Catalogue, FeatureJob, ViewRecord
from inferbus.settings import TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus_features.adapters.duckdb_history import BadHistory, DuckDbHistory, HistoryFiles, Slice
from inferbus_features.child import Orders
from inferbus_features.child_orders import MaterializeOrder, MaterializeTold
from inferbus_features.domain.definitions import BOOL, FLOAT64, INT64, STRING, from_record
from inferbus_features.ports import FeatureStore, StoreDown, WriteRow
from inferbus_features.settings import FeaturesSettings
from inferbus_features.stores import open_store
from inferbus_features.window_history import Stopped, write_slice
from inferbus_features.window_writes import row_of

_ROWS = 500
_PAUSE_S = 0.5
_SQL_KINDS = {"int32": INT64, "int64": INT64, "float32": FLOAT64, "float64": FLOAT64, "string": STRING, "bool": BOOL}


def main() -> None:
    os.nice(10)
    orders = Orders()
    order = msgspec.json.decode(orders.order, type=MaterializeOrder)
    settings = from_env(FeaturesSettings, "features")
    name = f"{settings.process}-{order.job.id}"
    logs.configure(name, from_env(TelemetrySettings, "telemetry").log_level)
    store = open_store(msgspec.structs.replace(settings, process=name), Path(order.state))
    store.load(Path(order.registry).read_bytes())
    job, rows = order.job, 0
    try:
        for n in range(job.done, job.slices):
            if job.out:
                rows += write_slice(store.catalogue, job, n, orders.stopping)
            else:
                rows += _materialize(store, job, Slice(n, job.slices), orders)
            orders.tell(msgspec.json.encode(MaterializeTold(done=n + 1, rows=rows)))
    except BadHistory as exc:
        orders.tell(msgspec.json.encode(MaterializeTold(done=job.done, rows=rows, error=str(exc))))
    except Stopped:
        return
    finally:
        store.close()


def _materialize(store: FeatureStore, job: FeatureJob, part: Slice, orders: Orders) -> int:
    """Write a slice's newest rows to the store; gives how many.

    Raises:
        BadHistory. Stopped: the process is to stop.
    """
    count = 0
    for rows in _batches(_rows_of(store.catalogue, job, part)):
        if not _write(store, job.view, rows, orders):
            raise Stopped
        count += len(rows)
    return count


def _rows_of(catalogue: Catalogue, job: FeatureJob, part: Slice) -> Iterator[WriteRow]:
    view = next((one for one in catalogue.views if one.name == job.view), None)
    if view is None:
        raise BadHistory(f"there is no view {job.view!r}")
    files = HistoryFiles(
        paths=tuple(job.paths), timestamp_column=job.timestamp_column, arrived_column=job.arrived_column
    )
    until_us = int((job.until or time.time()) * 1e6)
    with DuckDbHistory() as history:
        if view.type == STREAM_VIEW:
            declared = from_record(view.aggregation)
            now = declared.window.pane_of(until_us)
            for key, windows in history.windows(declared, files, part):
                begun = [values for values in windows if values.last_pane <= now]
                if begun:
                    yield row_of(declared, list(key), begun[-1])
            return
        keys, fields = _columns_of(catalogue, view)
        for key, time_us, values in history.newest(keys, fields, files, part, until_us):
            yield WriteRow(
                dict(zip(keys, key, strict=True)), dict(zip(fields, values, strict=True)), time_us / 1e6
            )  # fmt: skip


def _columns_of(catalogue: Catalogue, view: ViewRecord) -> tuple[dict[str, str], dict[str, str]]:
    entities = {one.name: one for one in catalogue.entities}
    keys = {entities[name].join_key: entities[name].kind for name in view.entities}
    fields = {feature.name: feature.kind for feature in view.features}
    for name, kind in (keys | fields).items():
        if kind not in _SQL_KINDS:
            raise BadHistory(f"{name}: values of kind {kind} cannot be materialised")
    return {n: _SQL_KINDS[kind] for n, kind in keys.items()}, {n: _SQL_KINDS[kind] for n, kind in fields.items()}


def _batches(rows: Iterator[WriteRow]) -> Iterator[list[WriteRow]]:
    batch: list[WriteRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= _ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(store: FeatureStore, view: str, rows: list[WriteRow], orders: Orders) -> bool:
    """Write rows, waiting for a store that is away; False: this process is to stop."""
    while not orders.stopping():
        try:
            store.write(view, rows)
        except StoreDown:
            time.sleep(_PAUSE_S)
        else:
            return True
    return False


if __name__ == "__main__":
    main()
