"""Batch = stream on the very same events: through JetStream and Bytewax, late and out of order, killed in the middle."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.features.event_histories import AGGREGATES, CLICKS, Arrival, Told, write_parquet

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.features import PushMessage
from inferbus.testing import NatsServer, eventually
from inferbus_features.adapters.duckdb_history import DuckDbHistory, HistoryFiles
from inferbus_features.adapters.jetstream_log import JetStreamLog
from inferbus_features.domain.definitions import WindowedView, sliding, to_record, tumbling
from inferbus_features.domain.window_state import WindowValues

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
VIEWS = [
    WindowedView(
        name=name, source=CLICKS, entity="user", window=window, aggregates=AGGREGATES, allowed_lateness="2s",
        allowed_earliness="1s",
    )
    for name, window in (("clicks_2s", tumbling("2s")), ("clicks_4s", sliding("4s", "1s")))
]  # fmt: skip


async def test_batch_equals_stream_over_kills(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, CONFIG) as server:
        await server.reconcile()
        bus = await server.connect("dev")
        out, draw = tmp_path / "out", random.Random(5)
        for _ in range(3):  # each life ends in a kill, with events still coming
            with following(server, tmp_path, out):
                before = size_of(out)
                await push(bus, draw, 120)
                await eventually(lambda before=before: size_of(out) > before + 2000, within_s=40)
                await push(bus, draw, 60)
        with following(server, tmp_path, out):
            await push(bus, draw, 60)
            await bus.close()
            expected = history(await asyncio.to_thread(arrivals_of, server), tmp_path / "events.parquet")
            assert {len(expected[view.name]) > 10 for view in VIEWS} == {True}
            await eventually(lambda: told_of(out) == expected, within_s=40)


async def push(bus: Bus, draw: random.Random, messages: int) -> None:
    """Push events of now, earlier, much earlier and a little later, not in order."""
    for n in range(messages):
        rows = [row(draw) for _ in range(5)]
        subject = routes.features_push("dev", CLICKS.name)
        await bus.accept(subject, msgspec.json.encode(PushMessage(rows=rows)), {}, msg_id=f"{time.time_ns()}-{n}")


def row(draw: random.Random) -> dict[str, Any]:
    delay = draw.choice([0, 0, 0.5, 1.5, 3, 7, -0.5])
    return {
        "user_id": draw.randrange(6),
        "event_timestamp": round(time.time() - delay - draw.random() / 10, 6),
        "item": draw.choice(["a", "b", "ü", None, f"i{draw.randrange(50)}"]),
        "amount": draw.choice([0.1, -0.0, 1e16, -1e16, 1e-9, None, draw.random()]),
        "units": draw.choice([1, -5, None, 2**53 + 1]),
        "mobile": draw.choice([True, False, None]),
    }


@contextmanager
def following(server: NatsServer, folder: Path, out: Path) -> Iterator[None]:
    job = {
        "bus": server.settings("features"), "views": [to_record(view) for view in VIEWS],
        "folder": str(folder / "state"), "out": str(out),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "tests.features.window_process"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def arrivals_of(server: NatsServer) -> list[Arrival]:
    """Read everything the bus has stored, as it is."""
    log, arrivals, after = JetStreamLog(server.settings("features"), name="history"), list[Arrival](), 0
    while page := log.read(CLICKS.name, after).messages:
        for after, arrived, body in page:  # noqa: B007 - the last one is where to go on
            for fields in msgspec.json.decode(body, type=PushMessage).rows:
                time_us = round(fields.pop("event_timestamp") * 1e6)
                arrivals.append((arrived, time_us, fields))
    log.close()
    return arrivals


def history(arrivals: list[Arrival], path: Path) -> dict[str, Told]:
    write_parquet(path, arrivals)
    files = HistoryFiles(paths=(str(path),), arrived_column="arrived")
    with DuckDbHistory() as engine:
        return {
            view.name: {
                (int(str(key[0])), values.last_pane): values
                for key, found in engine.windows(view, files)
                for values in found
            }
            for view in VIEWS
        }


def told_of(out: Path) -> dict[str, Told]:
    """Give what a store would have: of each window the newest."""
    told: dict[str, Told] = {view.name: {} for view in VIEWS}
    for line in out.read_bytes().splitlines():
        view, entity, values = msgspec.json.decode(line, type=tuple[str, str, WindowValues])
        key = (msgspec.json.decode(entity)[0], values.last_pane)
        if key not in told[view] or told[view][key].timestamp_us < values.timestamp_us:
            told[view][key] = values
    return told


def size_of(out: Path) -> int:
    return out.stat().st_size if out.exists() else 0
