"""One features process under an open load, for `features.py`: where it runs, how it is asked, and what is measured."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.features import CATALOGUE_KEY, REGISTRY_KEY, GetRequest
from inferbus.errors import InferbusError
from inferbus.feature_reads import ReadAsker, pass_on
from inferbus.testing import NatsServer, eventually

ROOT = Path(__file__).parents[1]
WITHIN_S = ("0.002", "0.005", "0.01")


class Result(NamedTuple):
    """One load: latencies in seconds, sorted, from when requests were due and from when they were sent; CPU of the features
    process in seconds; shares of requests it answered within each of `WITHIN_S`; the share of the machine its host took."""

    asked: int
    failed: int
    took_s: float
    latencies: list[float]
    cpu_s: float
    since_sent: list[float]
    inside: list[float]
    stolen: float

    def at(self, share: float, *, since_sent: bool = False) -> float:
        """Give a percentile in ms."""
        found = self.since_sent if since_sent else self.latencies
        return found[min(len(found) - 1, int(share * len(found)))] * 1000


class Place:
    """Redis, a bus, and one features process."""

    def __init__(self, folder: Path, *, pinned: bool) -> None:
        self.folder = folder
        self.pinned = pinned and len(os.sched_getaffinity(0)) > 1
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.redis_port = free.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.health_port = free.getsockname()[1]
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
            "INFERBUS_TELEMETRY_LOG_LEVEL": "error", "INFERBUS_HEALTH_PORT": str(self.health_port),
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

    def answered(self) -> list[float]:
        """Count requests the service answered within each of `WITHIN_S` of their receipt, and all."""
        with urlopen(f"http://127.0.0.1:{self.health_port}/metrics") as answer:
            text = answer.read().decode()
        found = dict(re.findall(r'inferbus_features_request_seconds_bucket{le="([^"]+)"} (\S+)', text))
        return [float(found[bound]) for bound in (*WITHIN_S, "+Inf")]

    def memory_mb(self) -> float:
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


async def load(bus: Bus, place: Place, make: Callable[[], tuple[str, bytes]], rate: float, seconds: float) -> Result:
    """Ask at `rate` requests a second, at random times; as cheaply as can be, since the machine is shared with what is measured."""
    inbox, due_at, latencies = bus.nc.new_inbox(), list[float](), list[float]()
    sent_at, since_sent = list[float](), list[float]()
    failed = 0
    gc.collect()
    gc.freeze()  # Feast's definitions are in this process too: a walk over them would be taken for the service's pause

    def on_answer(message: Msg) -> None:
        nonlocal failed
        n, now = int(message.subject.rsplit(".", 1)[1]), time.perf_counter()
        latencies.append(now - due_at[n])
        since_sent.append(now - sent_at[n])
        if b'"error":' in message.data[:200]:
            failed += 1

    listening = await bus.listen(f"{inbox}.*", on_answer)
    before, stolen = place.answered(), stolen_s()
    cpu, begun = place.cpu_s(), time.perf_counter()
    due = begun
    while (now := time.perf_counter()) < begun + seconds:
        while due <= now:
            service, body = make()
            bus.send(routes.features_get("dev", service), body, f"{inbox}.{len(due_at)}")
            due_at.append(due)
            sent_at.append(time.perf_counter())
            due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, min(0.001, due - time.perf_counter())))
    try:
        await eventually(lambda: len(latencies) == len(due_at), within_s=10)
    except AssertionError:
        failed += len(due_at) - len(latencies)
    took = time.perf_counter() - begun
    await bus.unsubscribe(listening)
    cpu, counts = place.cpu_s() - cpu, [now - then for now, then in zip(place.answered(), before, strict=True)]
    inside = [count / max(1.0, counts[-1]) for count in counts[:-1]]
    stolen = (stolen_s() - stolen) / took / (os.cpu_count() or 1)
    return Result(len(due_at), failed, took, sorted(latencies), cpu, sorted(since_sent), inside, stolen)


def stolen_s() -> float:
    """Give the CPU time this machine's host gave to others, in seconds."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


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
