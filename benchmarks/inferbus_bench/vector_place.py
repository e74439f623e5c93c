"""The vector service as processes on a bus of its own, without gateway or supervisor: what indexing takes, and nothing else."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import READY
from inferbus.contracts.vectors import CollectionRecord, Placement
from inferbus.models import apply_model
from inferbus.process.presence import PresenceTable
from inferbus.testing import NatsServer, eventually
from inferbus_bench.cpu import cpu_of
from inferbus_bench.places import ROOT

EMBED = ModelEntry(name="simulator-embed", pool="embed", tasks=("embeddings",))
_START_S, _TOLD_CHARS = 120.0, 4000
_LOOK_EVERY_S = 0.1


class Place:
    """A running bus, a vector service, and whoever publishes."""

    def __init__(self, nats: NatsServer, folder: Path) -> None:
        self.nats = nats
        self.folder = folder
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.producer: Bus
        self.admin: Bus
        self.presence: PresenceTable

    @property
    def vectors_folder(self) -> Path:
        return self.folder / "vectors"

    def cpu(self) -> Mapping[str, float]:
        """Give CPU seconds so far: the bus, every process, and this one (the producer)."""
        roots = {"nats-server": self.nats.pid} | {name: one.pid for name, one in self.processes.items()}
        found = dict(cpu_of(roots))
        times = os.times()
        return found | {"producer": times.user + times.system}

    async def start(
        self, name: str, module: str, role: str, section: str, *, python: str = sys.executable, **settings: object
    ) -> None:
        """Start one of our services, in the environment of `python`, and wait until it is ready."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("INFERBUS_")}
        env |= {
            "INFERBUS_BUS_URL": self.nats.url,
            "INFERBUS_BUS_USER": role,
            "INFERBUS_BUS_PASSWORD": self.nats.passwords[role],
            "INFERBUS_FILES_URL": str(self.folder / "files"),
        }
        env |= {
            f"INFERBUS_{section}_{key.upper()}": str(value) for key, value in ({"process": name} | settings).items()
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                python, "-m", module, env=env, stdout=log, stderr=log, cwd=ROOT
            )
        self.processes[name] = process

        def is_ready() -> bool:
            beat = self.presence.alive().get(name)
            return beat is not None and beat.pid == process.pid and beat.state == READY

        try:
            await eventually(is_ready, within_s=_START_S)
        except AssertionError as exc:
            said = (self.folder / f"{name}.log").read_text(errors="replace")[-_TOLD_CHARS:]
            raise RuntimeError(f"{name} was not ready within {_START_S:g} s; it said: {said}") from exc

    async def vectors(self, name: str = "vectors", **settings: object) -> None:
        fixed = {"folder": self.vectors_folder}
        await self.start(name, "inferbus_vectors", "vectors", "VECTORS", **(fixed | settings))

    async def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        await process.wait()

    async def collection(self, name: str, model: str, dimension: int) -> CollectionRecord:
        record = CollectionRecord(
            id=secrets.token_hex(4),
            tenant="dev",
            name=name,
            created=1.0,
            live=Placement(model=model, dimension=dimension),
        )
        bus = await self.nats.connect("vectors", name="collections")
        await bus.kv_put(routes.KV_COLLECTIONS, routes.tenant_key("dev", name), to_json(record))
        await bus.close()
        return record

    async def waiting(self) -> int:
        """Count index messages that are not acknowledged."""
        answer = await self.admin.request(f"$JS.API.STREAM.INFO.{routes.STREAM_VECTORS}")
        return int(msgspec.json.decode(answer.data)["state"]["messages"])

    async def indexed(self, within_s: float) -> None:
        """Wait until nothing waits to be indexed. It is asked seldom: each answer costs the bus as much as a message.

        Raises:
            TimeoutError: something still does.
        """
        async with asyncio.timeout(within_s):
            while await self.waiting():
                await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def vector_place(folder: Path) -> AsyncIterator[Place]:
    """Run a bus; `start` the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(folder, ROOT / "deploy/nats/nats.conf"))
        await nats.reconcile(EMBED)
        place = Place(nats, folder)
        place.admin = await nats.connect("admin", name="benchmark")
        stack.push_async_callback(place.admin.close)
        place.producer = await nats.connect("dev", name="producer")
        stack.push_async_callback(place.producer.close)
        await apply_model(place.admin, EMBED)
        place.presence = PresenceTable(place.admin, place.admin.region)
        await place.presence.start()
        stack.push_async_callback(place.presence.stop)
        try:
            yield place
        finally:
            for name in list(place.processes):
                await place.end(name, signal.SIGKILL)
