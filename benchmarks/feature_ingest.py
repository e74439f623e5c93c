"""What writing features costs: rows pushed over the bus into Redis, and events added up over windows by the stream engine.

    .venv-features/bin/python benchmarks/feature_ingest.py [--rows 200000] [--events 200000]

Everything is this machine's: a bus and a Redis of its own, the service and the engine as they run. Rates are per CPU second
of the process in question (user and system, its children's not), which is what a core does; Redis and the bus are not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from inferbus import routes
from inferbus.admission.audit import Actor
from inferbus.admission.feature_book import store_definitions
from inferbus.bus import Bus
from inferbus.contracts.features import Compiled, PushMessage
from inferbus.testing import NatsServer, eventually
from inferbus_features.adapters.duckdb_history import DuckDbHistory, HistoryFiles
from inferbus_features.domain.definitions import (
    Aggregate,
    EventSource,
    WindowedView,
    sliding,
    to_record,
    tumbling,
)

ROOT = Path(__file__).parents[1]
USERS, ROWS_A_MESSAGE = 20_000, 100
EVENTS = EventSource(name="bench_events", keys={"user_id": "int64"}, fields={"price": "float64", "item": "string"})
AGGREGATES = (
    Aggregate(name="events", kind="count"),
    Aggregate(name="spent", kind="sum", column="price"),
    Aggregate(name="mean", kind="mean", column="price"),
    Aggregate(name="most", kind="max", column="price"),
    Aggregate(name="last", kind="last", column="price"),
    Aggregate(name="items", kind="approx_distinct", column="item"),
)
VIEWS = {
    "tumbling 10 s": WindowedView(
        name="t10", source=EVENTS, entity="user", window=tumbling("10s"), aggregates=AGGREGATES, allowed_lateness="1h"
    ),
    "sliding 1 m every 10 s": WindowedView(
        name="s60", source=EVENTS, entity="user", window=sliding("1m", "10s"), aggregates=AGGREGATES,
        allowed_lateness="1h",
    ),
    "count only, tumbling 10 s": WindowedView(
        name="c10", source=EVENTS, entity="user", window=tumbling("10s"), aggregates=AGGREGATES[:1], allowed_lateness="1h"
    ),
}  # fmt: skip


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Redis:
    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        assert binary is not None, "redis-server is missing: make deps-services"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [binary, "--port", str(self.port), "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


async def push_all(bus: Bus, source: str, rows: list[dict[str, Any]]) -> None:
    async def one(begin: int) -> None:
        body = msgspec.json.encode(PushMessage(rows=rows[begin : begin + ROWS_A_MESSAGE]))
        await bus.accept(routes.features_push("dev", source), body, {}, hold_s=30)

    for begin in range(0, len(rows), ROWS_A_MESSAGE * 50):
        end = min(len(rows), begin + ROWS_A_MESSAGE * 50)
        await asyncio.gather(*(one(n) for n in range(begin, end, ROWS_A_MESSAGE)))


async def ingest(server: NatsServer, folder: Path, count: int) -> dict[str, float]:
    """Push rows of 12 floats, all stored before the service begins; measure it from its first row to its last."""
    from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds

    redis = Redis(folder)
    admin, dev = await server.connect("admin"), await server.connect("dev")
    registry, catalogue = FeastRepositories().compile_repository(str(ROOT / "deploy/features"))
    await store_definitions(admin, Compiled(registry=registry, catalogue=catalogue), Actor(name="bench"))
    now, draw = time.time(), random.Random(1)
    rows = [
        {"user_id": draw.randrange(USERS), "event_timestamp": now + n * 1e-4}
        | {f"user_{one:02d}": draw.random() for one in range(12)}
        for n in range(count)
    ]
    await push_all(dev, "user_profiles", rows)
    settings = server.settings("features")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inferbus_features",
        env=os.environ | {
            "INFERBUS_BUS_URL": settings.url, "INFERBUS_BUS_USER": settings.user,
            "INFERBUS_BUS_PASSWORD": settings.password, "INFERBUS_FEATURES_STORE": "redis",
            "INFERBUS_FEATURES_REDIS": f"127.0.0.1:{redis.port}", "INFERBUS_FEATURES_ROLE": "writes",
        }, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    operator = await server.connect("operator")

    async def left() -> int:
        answer = await operator.request(f"$JS.API.CONSUMER.INFO.{routes.STREAM_FEATURES}.{routes.DURABLE_FEATURES}")
        info = json.loads(answer.data)
        return int(info["num_pending"]) + int(info["num_ack_pending"])

    messages = await left()

    async def begun() -> bool:
        return await left() < messages

    async def ended() -> bool:
        return await left() == 0

    await eventually(begun, within_s=120)
    done, cpu, wall = (messages - await left()) * ROWS_A_MESSAGE, cpu_s(process.pid), time.monotonic()
    await eventually(ended, within_s=300)
    cpu, wall = cpu_s(process.pid) - cpu, time.monotonic() - wall
    process.send_signal(signal.SIGTERM)
    await process.wait()
    redis.stop()
    for bus in (admin, dev, operator):
        await bus.close()
    rows_measured = count - done
    return {"rows": rows_measured, "rows/s per core": rows_measured / cpu, "us/row": cpu / rows_measured * 1e6,
            "rows/s as run": rows_measured / wall}  # fmt: skip


async def aggregate(server: NatsServer, folder: Path, count: int) -> list[dict[str, Any]]:
    """Have the engine follow events that are stored, one view after the other, its outputs dropped; and DuckDB the same."""
    dev, now, draw = await server.connect("dev"), time.time(), random.Random(2)
    rows = [
        {
            "user_id": draw.randrange(USERS), "event_timestamp": now - 60 + 60 * n / count - draw.random(),
            "price": draw.random() * 100, "item": f"i{draw.randrange(500)}",
        }
        for n in range(count)
    ]  # fmt: skip
    await push_all(dev, EVENTS.name, rows)
    await dev.close()
    found = []
    for name, view in VIEWS.items():
        order = {
            "bus": server.settings("features"), "views": [to_record(view)], "folder": str(folder / view.name),
            "events": count,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(ROOT / "benchmarks/feature_windows.py"), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(msgspec.json.encode(order))
        measured = json.loads(out)
        found.append({"view": name, "events/s per core": count / measured["cpu_s"], **measured})
    found.append(history(folder, rows))
    return found


def history(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    times = pa.array([int(row["event_timestamp"] * 1e6) for row in rows], pa.timestamp("us", tz="UTC"))
    table = pa.table({name: [row[name] for row in rows] for name in ("user_id", "price", "item")})
    pq.write_table(table.append_column("event_timestamp", times), folder / "events.parquet")
    cpu, windows = time.process_time(), 0
    with DuckDbHistory() as engine:
        for _, values in engine.windows(VIEWS["tumbling 10 s"], HistoryFiles(paths=(str(folder / "events.parquet"),))):
            windows += len(values)
    cpu = time.process_time() - cpu
    return {"view": "DuckDB, tumbling 10 s", "events/s per core": len(rows) / cpu, "cpu_s": cpu, "outputs": windows}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with NatsServer(folder, ROOT / "deploy/nats/nats.conf") as server:
            await server.reconcile()
            if options.rows:
                print(
                    "pushed rows of 12 floats into Redis:",
                    {k: round(v) for k, v in (await ingest(server, folder, options.rows)).items()},
                )
            for one in await aggregate(server, folder, options.events) if options.events else []:
                print({name: round(value, 2) if isinstance(value, float) else value for name, value in one.items()})


if __name__ == "__main__":
    asyncio.run(main())
