"""The process of windows (`python -m inferbus_features.windows_process`), a child of the features service."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from inferbus.contracts.features import STREAM_VIEW
from inferbus.settings import BusSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus_features.adapters.bytewax_engine import BytewaxEngine
from inferbus_features.adapters.jetstream_log import JetStreamLog
from inferbus_features.child import Orders
from inferbus_features.child_orders import WindowsOrder, WindowsTold
from inferbus_features.domain.definitions import WindowedView, from_record
from inferbus_features.domain.window_state import WindowValues
from inferbus_features.settings import FeaturesSettings
from inferbus_features.stores import open_store
from inferbus_features.window_writes import StoreWrites

_TELL_S = 1.0


def main() -> None:
    os.nice(5)  # reads come first
    orders = Orders()
    order = msgspec.json.decode(orders.order, type=WindowsOrder)
    settings = from_env(FeaturesSettings, "features")
    name = f"{settings.process}-windows"
    logs.configure(name, from_env(TelemetrySettings, "telemetry").log_level)
    store = open_store(msgspec.structs.replace(settings, process=name), Path(order.state))
    store.load(Path(order.registry).read_bytes())
    views = [from_record(view.aggregation) for view in store.catalogue.views if view.type == STREAM_VIEW]
    writes, told = StoreWrites(store, orders.stopping), Told(orders)

    def write(view: WindowedView, items: list[tuple[str, WindowValues]]) -> None:
        writes.write(view, items)
        told.wrote(view.name, len(items), max(values.timestamp_us for _, values in items) / 1e6)

    def followed(view: WindowedView, upto_us: int, newest_us: int) -> None:
        told.followed(view.name, upto_us / 1e6, newest_us / 1e6)

    log = JetStreamLog(from_env(BusSettings, "bus"), name=name)
    BytewaxEngine(Path(order.folder), log, write, followed=followed).run(views, orders.stopping)
    log.close()
    store.close()


class Told:
    """Tells the parent what was written and how far the stream was followed, at most once a second for each view."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._new: dict[str, WindowsTold] = {}
        self._told: dict[str, float] = {}

    def wrote(self, view: str, rows: int, event_time: float) -> None:
        known = self._known(view)
        self._tell(msgspec.structs.replace(known, rows=known.rows + rows, event_time=max(known.event_time, event_time)))

    def followed(self, view: str, followed: float, newest_event: float) -> None:
        self._tell(msgspec.structs.replace(self._known(view), followed=followed, newest_event=newest_event))

    def _known(self, view: str) -> WindowsTold:
        return self._new.pop(view, None) or WindowsTold(view=view, rows=0, event_time=0.0)

    def _tell(self, new: WindowsTold) -> None:
        if time.monotonic() - self._told.get(new.view, float("-inf")) < _TELL_S:
            self._new[new.view] = new
            return
        self._told[new.view] = time.monotonic()
        self._orders.tell(msgspec.json.encode(new))


if __name__ == "__main__":
    main()
