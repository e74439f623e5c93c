"""A process for tests: follows the stream with Bytewax and appends what comes out to a file. It is there to be killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from inferbus.settings import BusSettings
from inferbus_features.adapters.bytewax_engine import BytewaxEngine
from inferbus_features.adapters.jetstream_log import JetStreamLog
from inferbus_features.domain.definitions import WindowedView, from_record
from inferbus_features.domain.window_state import WindowValues


class Job(msgspec.Struct):
    bus: BusSettings
    views: list[dict[str, Any]]
    folder: str
    out: str


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    with Path(job.out).open("ab", buffering=0) as out:

        def write(view: WindowedView, items: list[tuple[str, WindowValues]]) -> None:
            out.writelines(msgspec.json.encode((view.name, entity, values)) + b"\n" for entity, values in items)

        log = JetStreamLog(job.bus, name="windows-test")
        engine = BytewaxEngine(Path(job.folder), log, write, snapshot_s=0.2)
        engine.run([from_record(record) for record in job.views], lambda: False)


if __name__ == "__main__":
    main()
