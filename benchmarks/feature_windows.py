"""The engine's process of `feature_ingest.py`: follows stored events until all were taken, and tells what that cost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from inferbus.settings import BusSettings
from inferbus_features.adapters.bytewax_engine import BytewaxEngine
from inferbus_features.adapters.jetstream_log import JetStreamLog
from inferbus_features.domain.definitions import WindowedView, from_record
from inferbus_features.domain.window_state import WindowValues
from inferbus_features.ports import StoredEvents


class Order(msgspec.Struct):
    bus: BusSettings
    views: list[dict[str, Any]]
    folder: str
    events: int


class Counted:
    """A log that says when all events were read."""

    def __init__(self, log: JetStreamLog, events: int) -> None:
        self._log = log
        self._events = events
        self._again = 0

    def born(self) -> str:
        return self._log.born()

    def read(self, source: str, after: int, tenants: Sequence[str] = ()) -> StoredEvents:
        found = self._log.read(source, after, tenants)
        self._events -= sum(len(msgspec.json.decode(body)["rows"]) for _, _, body in found.messages)
        return found

    def close(self) -> None:
        self._log.close()

    def is_read(self) -> bool:
        """Whether everything was read, and taken: the input is asked again only after that."""
        self._again += self._events <= 0
        return self._again > 2


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    log = Counted(JetStreamLog(order.bus, name="bench-windows"), order.events)
    outputs = 0

    def write(_view: WindowedView, items: list[tuple[str, WindowValues]]) -> None:
        nonlocal outputs
        outputs += len(items)

    engine = BytewaxEngine(Path(order.folder), log, write)
    cpu, wall = time.process_time(), time.monotonic()
    engine.run([from_record(record) for record in order.views], log.is_read)
    log.close()
    print(json.dumps({"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall, "outputs": outputs}))


if __name__ == "__main__":
    main()
