"""The service as it runs: events pushed over the bus are read back as features; history goes in by jobs that are killed."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.features.conftest import publish_definitions
from tests.process_tree import descendants

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.features import DONE, GetRequest, ManageReply, ManageRequest, PushMessage
from inferbus.errors import InferbusError
from inferbus.feature_reads import ReadAsker, read_features
from inferbus.process.presence import PresenceTable
from inferbus.testing import NatsServer, eventually

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "deploy/features"
SERVICE = "ranking_now"


@contextmanager
def service(server: NatsServer, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = server.settings("features")
    env = os.environ | {
        "INFERBUS_BUS_URL": settings.url, "INFERBUS_BUS_USER": settings.user, "INFERBUS_BUS_PASSWORD": settings.password,
        "INFERBUS_FEATURES_STATE": str(state),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "inferbus_features"], env=env)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def manage(bus: Bus, verb: str, **arguments: Any) -> Any:
    body = msgspec.json.encode(ManageRequest(arguments=arguments))
    answer = await bus.request(routes.features_manage(routes.PLATFORM, verb), body, timeout_s=10)
    reply = msgspec.json.decode(answer.data, type=ManageReply)
    assert reply.error is None, reply.error
    return reply.data


async def features_of(bus: Bus, user: int) -> dict[str, Any]:
    request = GetRequest(entities={"user_id": [user], "item_id": [1]})
    try:
        answer = await read_features(bus, ReadAsker(tenant="dev"), SERVICE, request)
    except InferbusError:
        return {}
    return {column.name: column.values[0] for column in answer.columns}


@pytest.mark.slow
@pytest.mark.timeout(600)  # four processes import Feast, one after the other
async def test_events_become_features_and_jobs_survive_kills(server: NatsServer, tmp_path: Path) -> None:
    from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds

    async with AsyncExitStack() as stack:  # a connection that stays open without its server keeps the loop from ending
        admin, dev = await server.connect("admin"), await server.connect("dev")
        stack.push_async_callback(admin.close)
        stack.push_async_callback(dev.close)
        (tmp_path / "state").mkdir()
        await publish_definitions(admin, FeastRepositories().compile_repository(str(REPOSITORY)))
        with service(server, tmp_path / "state") as process:
            await eventually(lambda: answers(dev), within_s=120)
            await windows_follow_events(dev, process)
            await a_killed_job_goes_on(admin, dev, process, tmp_path)
            await windows_are_told_to_be_followed(admin)
            await all_windows_become_files(admin, tmp_path)
            fresh = {one["view"]: one for one in await manage(admin, "freshness")}
            assert fresh["user_now"]["newest_age_s"] < 120
            await eventually(lambda: is_used(admin), within_s=20)


async def windows_are_told_to_be_followed(admin: Bus) -> None:
    presence = PresenceTable(admin, admin.region)
    await presence.start()
    await eventually(lambda: presence.processes("features"))
    (process,) = presence.alive().values()

    def metrics() -> str:
        with urlopen(f"http://127.0.0.1:{process.health_port}/metrics") as answer:
            return str(answer.read().decode())

    async def is_small() -> bool:
        found = re.search(r'window_lag_seconds{view="user_now"} (\S+)', await asyncio.to_thread(metrics))
        return found is not None and float(found[1]) < 30

    await eventually(is_small, within_s=60)
    await presence.stop()


async def all_windows_become_files(admin: Bus, folder: Path) -> None:
    now = time.time()
    events = pa.table({
        "user_id": pa.array([1, 1, 2], pa.int64()), "item_id": pa.array([1, 2, 3], pa.int64()),
        "kind": ["click", "purchase", "click"], "price": [1.0, 2.5, 3.0],
        "event_timestamp": pa.array([int((now - ago) * 1e6) for ago in (7200, 7100, 7000)], pa.timestamp("us", tz="UTC")),
    })  # fmt: skip
    pq.write_table(events, folder / "events.parquet")
    files = {"paths": [str(folder / "events.parquet")], "out": str(folder / "windows")}
    job = await manage(admin, "materialize", view="user_now", slices=2, **files)

    async def is_done() -> bool:
        return bool((await manage(admin, "job", name=job["id"])).get("state") == DONE)  # the first state is left out

    await eventually(is_done, within_s=120)
    table = pq.read_table(folder / "windows").to_pylist()
    assert {one["user_id"] for one in table} == {1, 2}
    assert max(one["now_spent"] for one in table) == 2.5
    assert len(table) == 60 + 10 + 60 + 2  # a window every 10 s for 10 minutes after an event, and the first without


async def answers(bus: Bus) -> bool:
    return bool(await features_of(bus, 1))


async def is_used(bus: Bus) -> bool:
    used = (await manage(bus, "lineage", name="user_events"))["used_by"]
    return [(one["service"], one["tenant"]) for one in used] == [(SERVICE, "dev")]


async def windows_follow_events(bus: Bus, process: subprocess.Popen[bytes]) -> None:
    assert (await features_of(bus, 7))["now_clicks"] == 0
    now = time.time()
    rows = [{"user_id": 7, "event_timestamp": now, "kind": "click", "item_id": n, "price": 2.5} for n in range(3)]
    await push(bus, rows)
    await eventually(lambda: has(bus, 7, now_clicks=3, now_items=3, now_price_mean=2.5), within_s=120)
    assert kill_children(process, "windows_process") == 1
    late = [{"user_id": 7, "event_timestamp": now - 60, "kind": "purchase", "item_id": 9, "price": 10.0}]
    await push(bus, late)
    await eventually(lambda: has(bus, 7, now_clicks=3, now_purchases=1, now_spent=10.0, now_items=4), within_s=120)
    await push(bus, [{"user_id": 7, "event_timestamp": now - 3000, "kind": "purchase", "item_id": 9, "price": 10.0}])
    await push(bus, [{"user_id": 8, "event_timestamp": now, "kind": "click", "item_id": 9, "price": 1.0}])
    await eventually(lambda: has(bus, 8, now_clicks=1))
    assert (await features_of(bus, 7))["now_purchases"] == 1  # the other came too late


def kill_children(process: subprocess.Popen[bytes], module: str) -> int:
    found = [one for one in descendants(process.pid) if module in one.command]
    for one in found:
        os.kill(one.pid, signal.SIGKILL)
    return len(found)


async def has(bus: Bus, user: int, **wanted: Any) -> bool:
    found = await features_of(bus, user)
    return {name: found.get(name) for name in wanted} == wanted


async def push(bus: Bus, rows: list[dict[str, Any]]) -> None:
    await bus.accept(routes.features_push("dev", "user_events"), msgspec.json.encode(PushMessage(rows=rows)), {})


async def a_killed_job_goes_on(admin: Bus, dev: Bus, process: subprocess.Popen[bytes], folder: Path) -> None:
    draw, users, now = random.Random(3), 4000, time.time()
    times = [int((now - draw.random() * 3000) * 1e6) for _ in range(users)]
    columns: dict[str, Any] = {"user_id": pa.array(range(users), pa.int64())}
    columns |= {f"user_{n:02d}": pa.array([float(user + n) for user in range(users)], pa.float32()) for n in range(12)}
    columns["event_timestamp"] = pa.array(times, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table(columns), folder / "profile.parquet")
    job = await manage(admin, "materialize", view="user_profile", paths=[str(folder / "profile.parquet")], slices=20)

    async def is_under_way() -> bool:
        return 0 < (await manage(admin, "job", name=job["id"])).get("done", 0) < 20

    await eventually(is_under_way, within_s=120)
    assert kill_children(process, "materialize_process") == 1

    async def is_done() -> bool:
        return bool((await manage(admin, "job", name=job["id"])).get("state") == DONE)  # the first state is left out

    await eventually(is_done, within_s=150)
    for user in (0, 1234, 3999):
        found = await features_of(dev, user)
        assert [found[f"user_{n:02d}"] for n in (0, 11)] == [float(user), float(user + 11)]
