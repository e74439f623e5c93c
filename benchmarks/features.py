"""Reads of features at the bus door, next to Feast's own SDK in the same run, on Redis. Run in .venv-features:

    .venv-features/bin/python benchmarks/features.py [--seconds 5] [--only narrow|wide]

One features process, alone on its core: it is pinned to the last one, and the generator, Redis and the bus share the
others (`--unpinned`: the system decides). CPU is that process's own. Loads are open: requests come at random times whether
the ones before were answered or not, and a latency begins when a request was due. "late" is how much later than that the
generator sent it: what is its own fault in a latency. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from nats.aio.msg import Msg

from feature_definitions import NARROW, WIDE
from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.features import CATALOGUE_KEY, REGISTRY_KEY, GetRequest
from inferbus.errors import InferbusError
from inferbus.feature_reads import ReadAsker, pass_on
from inferbus.testing import NatsServer, eventually

ROOT = Path(__file__).parents[1]
USERS, ITEMS = 2000, 500


class Result(NamedTuple):
    """One load: latencies in seconds, sorted; CPU of the features process in seconds."""

    asked: int
    failed: int
    took_s: float
    latencies: list[float]
    cpu_s: float
    late: list[float]

    def late_ms(self) -> float:
        """Give the 99th percentile of how late requests were sent."""
        return self.late[min(len(self.late) - 1, int(0.99 * len(self.late)))] * 1000

    def at(self, share: float) -> float:
        """Give a percentile in ms."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))] * 1000


class Place:
    """Redis, a bus, and one features process."""

    def __init__(self, folder: Path, *, pinned: bool) -> None:
        self.folder = folder
        self.pinned = pinned and len(os.sched_getaffinity(0)) > 1
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.redis_port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.started_s = self.compiled_s = 0.0

    def online(self) -> dict[str, Any]:
        from inferbus_features.adapters.feast.store import online_config  # noqa: PLC0415 - takes seconds

        return online_config("redis", redis=f"127.0.0.1:{self.redis_port}", redis_timeout_s=2.0, state=self.folder)

    async def open(self, stack: AsyncExitStack) -> None:
        if self.pinned:
            *others, self.core = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, others)  # and whatever it starts
        redis = shutil.which("redis-server")
        if redis is None:
            sys.exit("redis-server is missing: make deps-services")
        arguments = ["--port", str(self.redis_port), "--save", "", "--dir", str(self.folder)]
        server = subprocess.Popen([redis, *arguments], stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - before anything runs
        stack.callback(server.wait)
        stack.callback(server.kill)
        self.nats = await stack.enter_async_context(NatsServer(self.folder / "bus", ROOT / "deploy/nats/nats.conf"))
        await self.nats.reconcile()
        self.bus = await self.nats.connect("gateway", name="bench")
        stack.push_async_callback(self.bus.close)

    async def define(self, source: str) -> Any:
        """Compile, publish and load definitions; gives a store of this process's own."""
        from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds
        from inferbus_features.adapters.feast.store import FeastStore  # noqa: PLC0415 - as above

        repository = self.folder / f"repository{random.randrange(10**6)}"
        repository.mkdir()
        (repository / f"definitions_{repository.name}.py").write_text(source)
        cpu = time.process_time()
        registry, catalogue = FeastRepositories().compile_repository(str(repository))
        self.compiled_s = time.process_time() - cpu
        admin = await self.nats.connect("admin", name="define")
        await admin.kv_put(routes.KV_FEATURES, REGISTRY_KEY, registry)
        await admin.kv_put(routes.KV_FEATURES, CATALOGUE_KEY, to_json(catalogue))
        await admin.close()
        store = FeastStore(self.online(), self.folder, name="bench")
        store.load(registry)
        return store

    async def start(self, service: str, request: GetRequest) -> None:
        """Start the features process, and wait until it answers."""
        settings = self.nats.settings("features")
        env = os.environ | {
            "INFERBUS_BUS_URL": settings.url, "INFERBUS_BUS_USER": settings.user, "INFERBUS_BUS_PASSWORD": settings.password,
            "INFERBUS_FEATURES_STORE": "redis", "INFERBUS_FEATURES_REDIS": f"127.0.0.1:{self.redis_port}",
            "INFERBUS_FEATURES_ROLE": "reads", "INFERBUS_FEATURES_STATE": str(self.folder / "state"),
            "INFERBUS_TELEMETRY_LOG_LEVEL": "error",
        }  # fmt: skip
        begun = time.monotonic()
        self.process = subprocess.Popen([sys.executable, "-m", "inferbus_features"], env=env)  # noqa: ASYNC220 - as above
        if self.pinned:
            os.sched_setaffinity(self.process.pid, [self.core])

        async def answers() -> bool:
            try:
                await pass_on(self.bus, ReadAsker(tenant="dev", deadline_s=1.0), service, to_json(request))
            except InferbusError:
                return False
            return True

        await eventually(answers, within_s=120)
        self.started_s = time.monotonic() - begun

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def cpu_s(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


async def load(bus: Bus, place: Place, make: Callable[[], tuple[str, bytes]], rate: float, seconds: float) -> Result:
    """Ask at `rate` requests a second, at random times; as cheaply as can be, since the machine is shared with what is measured."""
    inbox, due_at, latencies, late = bus.nc.new_inbox(), list[float](), list[float](), list[float]()
    failed = 0
    gc.collect()
    gc.freeze()  # Feast's definitions are in this process too: a walk over them would be taken for the service's pause

    def on_answer(message: Msg) -> None:
        nonlocal failed
        latencies.append(time.perf_counter() - due_at[int(message.subject.rsplit(".", 1)[1])])
        if b'"error":' in message.data[:200]:
            failed += 1

    listening = await bus.listen(f"{inbox}.*", on_answer)
    cpu, begun = place.cpu_s(), time.perf_counter()
    due = begun
    while (now := time.perf_counter()) < begun + seconds:
        while due <= now:
            service, body = make()
            bus.send(routes.features_get("dev", service), body, f"{inbox}.{len(due_at)}")
            due_at.append(due)
            late.append(time.perf_counter() - due)
            due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, min(0.001, due - time.perf_counter())))
    try:
        await eventually(lambda: len(latencies) == len(due_at), within_s=10)
    except AssertionError:
        failed += len(due_at) - len(latencies)
    took = time.perf_counter() - begun
    await bus.unsubscribe(listening)
    return Result(len(due_at), failed, took, sorted(latencies), place.cpu_s() - cpu, sorted(late))


def sdk(
    store: Any, service: str, rows: Callable[[], dict[str, list[int]]], seconds: float
) -> tuple[float, float, float, float]:
    """Ask Feast's own front door in a closed loop: requests a CPU second, requests a second, p50 and p99 ms."""
    feast = store._feast
    definition = feast.get_feature_service(service)
    latencies = []
    feast.get_online_features(features=definition, entity_rows=rows()).to_dict()
    cpu, begun = time.process_time(), time.perf_counter()
    while time.perf_counter() < begun + seconds:
        at = time.perf_counter()
        feast.get_online_features(features=definition, entity_rows=rows()).to_dict()
        latencies.append(time.perf_counter() - at)
    took, used = time.perf_counter() - begun, time.process_time() - cpu
    latencies.sort()
    count = len(latencies)
    return count / used, count / took, latencies[count // 2] * 1000, latencies[int(count * 0.99)] * 1000


def fill(store: Any, view: str, key: str, count: int) -> None:
    from inferbus_features.ports import WriteRow  # noqa: PLC0415 - imports Feast's side

    features = next(one for one in store.catalogue.views if one.name == view).features
    now = time.time()
    rows = [
        WriteRow({key: n}, {one.name: (n % 97 if one.kind == "int64" else n * 0.5) for one in features}, now)
        for n in range(count)
    ]
    for start in range(0, count, 500):
        store.write(view, rows[start : start + 500])


def row(what: str, result: Result, rows: int = 1) -> str:
    """Write one line of the table."""
    rate = len(result.latencies) / result.took_s
    per_cpu = len(result.latencies) / result.cpu_s if result.cpu_s else 0
    return (
        f"| {what} | {rate:.0f} | {rate * rows:.0f} | {result.at(0.5):.2f} / {result.at(0.99):.2f} | {result.late_ms():.2f} | {result.cpu_s / result.took_s:.2f} "
        f"| {result.cpu_s / max(1, len(result.latencies)) * 1e6:.0f} | {per_cpu:.0f} | {per_cpu * rows:.0f} | {result.failed} |"
    )


HEAD = (
    "| load | requests/s | rows/s | p50 / p99 ms | late p99 ms | core use | CPU us/request | requests per CPU s | rows per CPU s | failed |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


async def narrow(place: Place, seconds: float) -> None:
    store = await place.define(NARROW)
    for view, key, count in (("stats", "user_id", USERS), ("of_user", "user_id", USERS), ("of_item", "item_id", ITEMS)):
        fill(store, view, key, count)
    one = GetRequest(entities={"user_id": 1})
    await place.start("svc", one)

    def single() -> tuple[str, bytes]:
        return "svc", b'{"entities":{"user_id":%d}}' % random.randrange(USERS)

    def ranked() -> tuple[str, bytes]:
        items = random.sample(range(ITEMS), 100)
        return "candidates", to_json(GetRequest(entities={"user_id": random.randrange(USERS), "item_id": items}))

    print(f"\nstart to first answer {place.started_s:.1f} s, memory {place.memory_mb():.0f} MB\n\n{HEAD}")
    await load(place.bus, place, single, 500, 1.0)
    print(row("20 features, 1 row, 1,000/s", await load(place.bus, place, single, 1000, seconds)))
    for rate in (3000, 5000, 6000, 7000, 8000):
        result = await load(place.bus, place, single, rate, seconds)
        print(row(f"20 features, 1 row, {rate:,}/s", result), flush=True)
        if result.at(0.99) > 50 or result.failed:
            break
    for rate in (50, 100, 150):
        result = await load(place.bus, place, ranked, rate, seconds)
        print(row(f"1 user x 100 items, 12 + 8 features, {rate}/s", result, 100), flush=True)
        if result.at(0.99) > 50:
            break
    for what, service, ask, rows in (
        ("20 features, 1 row", "svc", lambda: {"user_id": [random.randrange(USERS)]}, 1),
        ("20 features, 64 rows", "svc", lambda: {"user_id": random.sample(range(USERS), 64)}, 64),
        (
            "1 user x 100 items",
            "candidates",
            lambda: {"user_id": [7] * 100, "item_id": random.sample(range(ITEMS), 100)},
            100,
        ),
    ):
        per_cpu, rate, p50, p99 = sdk(store, service, ask, min(seconds, 3.0))
        print(
            f"| Feast's SDK, one after the other: {what} | {rate:.0f} | {rate * rows:.0f} | {p50:.2f} / {p99:.2f} | | 1 "
            f"| {1e6 / per_cpu:.0f} | {per_cpu:.0f} | {per_cpu * rows:.0f} | 0 |"
        )
    place.stop()


async def wide(place: Place, seconds: float) -> None:
    store = await place.define(WIDE)
    for n in range(20):
        fill(store, f"wide{n}", "user_id", 300)
    await place.start("svc0", GetRequest(entities={"user_id": 1}))

    def single() -> tuple[str, bytes]:
        return f"svc{random.randrange(100)}", b'{"entities":{"user_id":%d}}' % random.randrange(300)

    def some() -> tuple[str, bytes]:
        names = ",".join(f'"w{n}_{n}"' for n in range(20))
        return "svc7", f'{{"entities":{{"user_id":{random.randrange(300)}}},"features":[{names}]}}'.encode()

    print(
        f"\n100 services of 900 features over 20 views: compiled in {place.compiled_s:.1f} s of CPU, start to first answer "
        f"{place.started_s:.1f} s (CPU {place.cpu_s():.1f} s), memory {place.memory_mb():.0f} MB\n\n{HEAD}"
    )
    for rate in (100, 200, 400, 600):
        result = await load(place.bus, place, single, rate, seconds)
        print(row(f"900 features, any of 100 services, {rate}/s", result), flush=True)
        if result.at(0.99) > 50 or result.failed:
            break
    print(row("20 of the 900, over 20 views, 500/s", await load(place.bus, place, some, 500, seconds)))
    per_cpu, rate, p50, p99 = sdk(store, "svc7", lambda: {"user_id": [random.randrange(300)]}, min(seconds, 3.0))
    print(
        f"| Feast's SDK, one after the other: 900 features | {rate:.0f} | {rate:.0f} | {p50:.2f} / {p99:.2f} | | 1 | {1e6 / per_cpu:.0f} | {per_cpu:.0f} | {per_cpu:.0f} | 0 |"
    )
    print(f"\nmemory afterwards {place.memory_mb():.0f} MB")
    place.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", choices=["narrow", "wide"], default="")
    parser.add_argument("--unpinned", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    async with AsyncExitStack() as stack:
        place = Place(
            Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))),
            pinned=not chosen.unpinned,
        )
        await place.open(stack)
        stack.callback(place.stop)
        for name, part in (("narrow", narrow), ("wide", wide)):
            if chosen.only in ("", name):
                await part(place, chosen.seconds)


if __name__ == "__main__":
    asyncio.run(main())
